"""Entry of `bytemq` and `python -m bytemq`."""

import sys

from bytemq.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
