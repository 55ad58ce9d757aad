"""`python -m tests.support.older_program start ...`: this program as it was before its highest feature level.

Owns: taking that level away, before anything has asked for it. The product knows nothing of this.
"""

from __future__ import annotations

import sys

from bytemq.metadata import features

del features.LEVELS[features.SUPPORTED.highest]
features.SUPPORTED = features.SUPPORTED._replace(highest=max(features.LEVELS))

if __name__ == "__main__":
    from bytemq.__main__ import main

    sys.exit(main(sys.argv[1:]))
