"""Names of the objects that sessions make of partitions' logs: segments, snapshots, tables.

    <folder of the partition><base offset, 20 digits>-<session, hex>-<number, hex>[-<part>].<kind>

Owns: that no two of them are the same, and what a name says of who made the object, and when. Must not: know which
folders there are.

Whatever a session makes, it numbers from one counter: what has the higher number was begun later.
"""

from __future__ import annotations

from typing import NamedTuple


class Made(NamedTuple):
    """By whom, and as which of all that this session made."""

    session_id: int
    number: int


class ObjectNames:
    """Those of one session."""

    def __init__(self, session_id: int) -> None:
        self.session_id = session_id
        self.following = 1
        """The number of what is begun next."""

    def mark(self) -> str:
        """What the names of one making have in common, `<session>-<number>`: drawn once."""
        number, self.following = self.following, self.following + 1
        return f"{self.session_id:x}-{number:x}"

    def name(self, folder: str, base_offset: int, ending: str) -> str:
        """Of one object by itself."""
        return f"{folder}{base_offset:020d}-{self.mark()}{ending}"


def made_by(name: str) -> Made | None:
    """None for an object that is named otherwise."""
    parts = _parts(name)
    try:
        return Made(int(parts[1], 16), int(parts[2], 16))
    except (IndexError, ValueError):
        return None


def maker_of(name: str) -> int | None:
    """The session, also of metadata of tables, which it numbers otherwise. None for an object named otherwise."""
    try:
        return int(_parts(name)[1], 16)
    except (IndexError, ValueError):
        return None


def _parts(name: str) -> list[str]:
    return name.rpartition("/")[2].partition(".")[0].split("-")
