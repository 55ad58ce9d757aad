"""The numbers of a batch's header, in Python: the twin of `Fields` in _produced.c where that was not compiled.

Owns their names, and where an owner of the log patches its own in.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

_PLACE = struct.Struct(">qii")


class Fields:
    """`header` is what the 61 bytes say, in their order."""

    __slots__ = (
        "attributes",
        "base_offset",
        "base_sequence",
        "base_timestamp",
        "crc",
        "last_offset_delta",
        "leader_epoch",
        "magic",
        "max_timestamp",
        "producer_epoch",
        "producer_id",
        "record_count",
        "sent_crc",
        "size_bytes",
        "view",
    )

    def __init__(self, view: memoryview, header: tuple[int, ...]) -> None:
        self.view = view
        (
            self.base_offset,
            length,
            self.leader_epoch,
            self.magic,
            self.crc,
            self.attributes,
            self.last_offset_delta,
            self.base_timestamp,
            self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.record_count,
        ) = header
        self.sent_crc = self.crc
        self.size_bytes = length + 12

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.base_offset + self.last_offset_delta + 1

    def place(self, base_offset: int, leader_epoch: int) -> None:
        """Patches them into the bytes: neither is under the CRC. `view` must be writable."""
        _PLACE.pack_into(self.view, 0, base_offset, self.size_bytes - 12, leader_epoch)
        self.base_offset = base_offset
        self.leader_epoch = leader_epoch

    def checksum(self, before: int) -> int:
        """CRC-32C of what has the CRC `before`, with the whole batch behind it. `crc` must be that of the bytes: the
        native part reads the first of them only, and puts the rest together from it.
        """
        return int(crc32c(self.view, before))
