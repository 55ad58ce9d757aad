"""How much the members of all groups of a node may keep in memory together: subscriptions, assignments, ids.

A client chooses its subscription's size and how many members it starts, so this is what bounds them.
"""

from __future__ import annotations

DEFAULT_LIMIT_BYTES = 256 * 1024 * 1024
PENDING_MEMBER_BYTES = 400
GROUP_BYTES = 1_500


class MembershipMemory:
    """A count against a limit. What is loaded from the log counts too but is never refused."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def has_room_for(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self.limit_bytes
