"""How fast this machine is in these seconds, by what has nothing to do with bytemq. Owns the yardstick.

A limit of time that a user may rely on holds as it is where the yardstick takes what it took when limits were set. A
slower machine, or hour, is given more, in proportion.
"""

from __future__ import annotations

import subprocess
import sys
import time

LIBRARY = "import asyncio, http.client, json, logging, sqlite3, ssl"
LIBRARY_S = 0.12
"""What an interpreter took to import these where the limits were set."""
TRIES = 3


def library_s(times: int = 1) -> float:
    """What so many interpreters take, one after another, to import some of their library."""
    began = time.monotonic()
    for _ in range(times):
        subprocess.run([sys.executable, "-c", LIBRARY], check=True)
    return time.monotonic() - began


def slowness() -> float:
    """1.0, or how many times slower than where the limits were set."""
    return max(1.0, library_s(TRIES) / TRIES / LIBRARY_S)
