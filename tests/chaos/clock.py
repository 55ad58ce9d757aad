"""A clock that jumps, for one process: libfaketime (Debian's package of that name), where it is installed.

Owns: the file that says how far off the clock is. Only the clock of the wall jumps; the monotonic one goes on, as it
does when somebody sets the time.
"""

from __future__ import annotations

from pathlib import Path

CACHED_S = 1
"""The library looks at the file that often."""


class FakeClock:
    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": str(CACHED_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    @classmethod
    def where_possible(cls, file: Path) -> FakeClock | None:
        """None where the library is not."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        return cls(found[0], file) if found else None

    def set(self, seconds: int) -> None:
        """Ahead of the true time; negative: behind."""
        self._file.write_text(f"{seconds:+d}")
