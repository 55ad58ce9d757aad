"""Checking the write-ahead log of one session, in files, against its tail record, its indexes and the manifests.

Part of `verify`; must not write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bytemq.errors import Corrupt
from bytemq.storage.wal.format import (
    ALIGNMENT,
    MAGIC,
    FlushHeader,
    Share,
    check_head,
    decode_header,
    decode_shares,
    is_later,
    payload_errors,
)
from bytemq.storage.wal.wal_index import TailRecord, decode_index, file_name, file_number, index_name
from bytemq.types import PartitionId

Problem = tuple[str, str]
"""(file name, what is wrong)"""


def verify_session(root: Path, tail: TailRecord, ends: dict[PartitionId, int], named: set[str]) -> Iterator[Problem]:
    """`ends` has the next offset of every partition that exists, and is moved on. Files found are added to `named`."""
    check = _SessionCheck(root, tail, ends, named)
    number = tail.first_number
    present = {file_number(f"wal/{path.name}", tail.session_id) or 0 for path in (root / "wal").glob("*.log")}
    while not tail.is_sealed or number <= tail.sealed_number:
        path = root / file_name(tail.session_id, number)
        name, index = file_name(tail.session_id, number), index_name(tail.session_id, number)
        number += 1
        if not path.is_file():
            if tail.is_sealed:
                continue
            if max(present, default=0) < number:
                break
            yield name, "is missing, and later files are there"
            continue
        named.update((name, index))
        flushes = list(check.file(name, path.read_bytes()))
        yield from check.take_problems()
        indexed = [(at, header.crc) for at, header in flushes]
        yield from _verify_index(root, tail.session_id, number - 1, indexed, is_due=tail.is_sealed)
    if tail.is_sealed and check.sequence < tail.sealed_sequence:
        last = file_name(tail.session_id, tail.sealed_number)
        yield last, f"flushes {check.sequence + 1} to {tail.sealed_sequence} are missing or damaged"


def _verify_index(
    root: Path, session_id: int, number: int, flushes: list[tuple[int, int]], *, is_due: bool
) -> Iterator[Problem]:
    """`is_due`: a session that ended well, or was recovered, has an index for each of its files."""
    name = index_name(session_id, number)
    if not (root / name).is_file():
        if is_due and flushes:
            yield name, "is missing; the next start walks through the file that it is of, and writes it anew"
        return
    try:
        heads = decode_index((root / name).read_bytes(), session_id, number)
    except Corrupt as error:
        yield name, str(error)
        return
    indexed = [(position, decode_header(head).crc) for position, head in heads]
    if indexed != flushes[: len(indexed)]:
        yield name, "lists other flushes than the file holds"


class _SessionCheck:
    def __init__(self, root: Path, tail: TailRecord, ends: dict[PartitionId, int], named: set[str]) -> None:
        self._root = root
        self._tail = tail
        self._ends = ends
        self._named = named
        self._link = tail.first_link
        self._problems: list[Problem] = []
        self.sequence = tail.first_sequence - 1

    def take_problems(self) -> list[Problem]:
        problems, self._problems = self._problems, []
        return problems

    def file(self, name: str, data: bytes) -> Iterator[tuple[int, FlushHeader]]:
        """The flushes of one file that follow what was before."""
        position = 0
        view = memoryview(data)
        while True:
            header = self._flush_at(view, position)
            if header is None or not self._follows(header):
                later = self._search(view, position)
                if later is None:
                    return
                position, header = later
                first, last = self.sequence + 1, header.sequence - 1
                self._problems.append(
                    (name, f"flushes {first} to {last} are missing or damaged before position {position}")
                )
            self.sequence, self._link = header.sequence, header.crc
            if self._tail.is_sealed and header.sequence > self._tail.sealed_sequence:
                return
            self._check_shares(name, view[position : position + header.total_bytes], header)
            yield position, header
            position += header.total_bytes

    def _follows(self, header: FlushHeader) -> bool:
        if header.session_id != self._tail.session_id:
            return False
        if header.sequence == self.sequence:
            return True  # written anew after a failure
        return header.sequence == self.sequence + 1 and header.previous_crc == self._link

    def _is_later(self, header: FlushHeader) -> bool:
        return is_later(header, self._tail.session_id, self.sequence)

    def _flush_at(
        self, view: memoryview, position: int, is_wanted: Callable[[FlushHeader], bool] = lambda _: True
    ) -> FlushHeader | None:
        try:
            header = decode_header(view, position)
            if not is_wanted(header):
                return None
            check_head(view[position : position + header.head_bytes], header)
        except Corrupt:
            return None
        return header

    def _search(self, view: memoryview, position: int) -> tuple[int, FlushHeader] | None:
        """A later flush which says that what is missing before it had been durable."""
        data = bytes(view[position:])
        at = data.find(MAGIC)
        while at >= 0:
            header = self._flush_at(view, position + at, self._is_later) if (position + at) % ALIGNMENT == 0 else None
            if header is not None:
                return (position + at, header) if header.durable_through > self.sequence else None
            at = data.find(MAGIC, at + 1)
        return None

    def _bytes_of(self, share: Share, payload: memoryview) -> memoryview:
        """Of the payload, or of the bulk file; nothing where that is missing."""
        if not share.reference:
            return payload[share.position : share.position + share.size_bytes]
        self._named.add(share.reference)
        try:
            with open(self._root / share.reference, "rb") as file:
                file.seek(share.position)
                return memoryview(file.read(share.size_bytes))
        except OSError:
            return memoryview(b"")

    def _check_shares(self, name: str, flush: memoryview, header: FlushHeader) -> None:
        payload = flush[header.head_bytes : header.head_bytes + header.payload_bytes]
        torn = not self._tail.is_sealed and header.sequence > header.durable_through + 1
        for share in decode_shares(flush, header):
            end = self._ends.get(share.partition)
            if share.reference and (end is None or share.next_offset <= end):
                continue  # the file is a segment by now, or gone
            problem = payload_errors(share, self._bytes_of(share, payload))
            if problem is not None and not torn:
                self._problems.append((share.reference or name, f"flush {header.sequence}: {problem}"))
            if end is None:
                continue  # deleted since
            if share.base_offset > end:
                self._problems.append(
                    (name, f"{share.partition}: offset {share.base_offset} follows where {end} should")
                )
            self._ends[share.partition] = max(end, share.next_offset)
