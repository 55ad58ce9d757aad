"""What was written to a compacted log, and whether a reader can have been given what it was. Pure.

what a reader is given at an offset is what was written there, in order of offsets
of each key it is given the newest committed value, and after it nothing older: no value comes back
a tombstone is there for delete.retention.ms at least
nothing that was aborted is given to read_committed
offsets, and what a producer is answered for a batch that it repeats, are the same after every restart
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bytemq.protocol.records.builder import Record
from tests.simulation.transcript import Transcript

KeyValue = tuple[bytes, bytes | None]


class Written(NamedTuple):
    key: bytes
    value: bytes | None
    at_ms: int
    is_transactional: bool


@dataclass
class CompactedHistory(Transcript):
    delete_retention_ms: int = 0
    written: dict[int, Written] = field(default_factory=dict)
    end_offset: int = 0
    in_transaction: list[int] = field(default_factory=list)
    """Offsets of the transaction that is open."""
    aborted: set[int] = field(default_factory=set)

    def appended(self, base_offset: int, records: Sequence[KeyValue], now_ms: int, *, transactional: bool) -> None:
        """Acknowledged, or found after a crash."""
        if base_offset != self.end_offset:
            raise self.broken(f"the log ended at {self.end_offset}, and a batch was given {base_offset}")
        for delta, (key, value) in enumerate(records):
            offset = base_offset + delta
            self.written[offset] = Written(key, value, now_ms, transactional)
            if transactional:
                self.in_transaction.append(offset)
        self.end_offset += len(records)

    def ended(self, *, committed: bool) -> None:
        """A marker is in the log."""
        if not committed:
            self.aborted.update(self.in_transaction)
        self.in_transaction.clear()
        self.end_offset += 1

    def read(self, records: Sequence[Record], end: int, now_ms: int, *, committing: bool = False) -> None:
        """All that a read_committed reader was given from the log's start to `end`.

        `committing`: the commit of the open transaction was sent and is not answered, so that it may count already.
        """
        latest = -1
        newest_given: dict[bytes, int] = {}
        for record in records:
            known = self.written.get(record.offset)
            if record.offset <= latest:
                raise self.broken(f"offset {record.offset} was given after {latest}")
            if known is None or (known.key, known.value) != (record.key, record.value):
                raise self.broken(f"{record.key!r}: {record.value!r} was given at {record.offset}, which has {known}")
            if record.offset in self.aborted:
                raise self.broken(f"read_committed was given offset {record.offset}, which was aborted")
            if record.offset in self.in_transaction and not committing:
                raise self.broken(f"read_committed was given offset {record.offset} before its transaction ended")
            latest = record.offset
            newest_given[known.key] = record.offset
        for key, offset in self._newest().items():
            if offset >= end:
                continue  # what is newer may have replaced it meanwhile
            given, written = newest_given.get(key), self.written[offset]
            if given in self.in_transaction:
                continue  # it counts already, and is newer
            if written.value is not None and given != offset:
                raise self.broken(f"the value of {key!r} at {offset} is lost; given was {given}")
            if given is not None and given != offset:
                raise self.broken(f"the value of {key!r} at {given} came back; it was deleted at {offset}")
            if given is None and now_ms < written.at_ms + self.delete_retention_ms:
                raise self.broken(f"the tombstone of {key!r} at {offset} went after {now_ms - written.at_ms} ms")

    def _newest(self) -> dict[bytes, int]:
        """The newest committed offset of each key."""
        skipped = self.aborted.union(self.in_transaction)
        return {each.key: offset for offset, each in self.written.items() if offset not in skipped}
