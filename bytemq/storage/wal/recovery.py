"""Finding again what the write-ahead logs of earlier sessions hold.

Owns: which flushes of a file count. Must not: write, or look into batches more than it must.

A file with an index object is read by that; the last one, or one whose index is missing, is walked head by head.
Flushes form a chain: each has the sequence after its predecessor's and links to its CRC. The payload is looked at only
where it is not known to be durable, and so are the bulk files that flushes refer to, where a log needs them. Where the
chain breaks, a later flush decides: if it says that everything before it had been synced, the gap is corruption,
reported and never skipped in silence; if not, or if there is none, this is the torn tail of a crash, and the clean
prefix counts.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from crc32c import crc32c

from bytemq.errors import Corrupt, NotFound
from bytemq.runtime.logging import get_logger
from bytemq.storage.stores.interface import AppendFile, ReadFile, Store
from bytemq.storage.wal.format import (
    ALIGNMENT,
    FLUSH_HEADER_BYTES,
    FlushHeader,
    Share,
    check_head,
    decode_header,
    decode_shares,
    flush_prefix,
    is_later,
)
from bytemq.storage.wal.heads import PARTITION, Head, by_partition, chained
from bytemq.storage.wal.wal_files import WalFile
from bytemq.storage.wal.wal_index import TailRecord, decode_index, file_name, file_number, index_name
from bytemq.types import PartitionId

log = get_logger("storage.recovery")

WINDOW_BYTES = 1024 * 1024
LEAST_WINDOW_BYTES = 64 * 1024
"""What is left of a window in which the next head may begin: most are whole in it then."""
_ZEROES = bytes(WINDOW_BYTES)
SLICE_FLUSHES = 2048
"""Small flushes handled before the event loop may do something else."""


class ChainState(NamedTuple):
    """The last flush found: the next one has the sequence after it and links to its CRC."""

    sequence: int
    crc: int


Bytes = bytes | bytearray


class Taking(Protocol):
    """Who takes what counts, in order."""

    def take_rows(self, file: WalFile, partition: PartitionId, rows: Bytes, entries: Bytes) -> None:
        """What a partition has in some flushes in a row, as `heads_pure.by_partition` gives it."""

    def take_share(self, file: WalFile, payload_position: int, share: Share, bulk: AppendFile | None) -> None:
        """One share. `bulk` is the file that it refers to if its log needs it; None if that is missing."""


class SessionRecovery:
    """Recovers one session's files in order; what counts is given to `taking`. `needs` says of a share whether its log
    has it from nowhere else.
    """

    def __init__(
        self,
        store: Store,
        tail: TailRecord,
        next_ordinal: Callable[[], int],
        needs: Callable[[Share], bool],
        taking: Taking,
    ) -> None:
        self._store = store
        self._tail = tail
        self._next_ordinal = next_ordinal
        self._needs = needs
        self._taking = taking
        self._chain = ChainState(tail.first_sequence - 1, tail.first_link)
        self._held: list[tuple[WalFile, list[Head]]] = []
        self.files: list[WalFile] = []
        self.bulk: dict[str, AppendFile | None] = {}
        self.sequence = tail.first_sequence - 1
        """Of the last flush that counts."""
        self.walked_bytes = 0

    async def run(self) -> None:
        """Raises Unavailable when a file cannot be read. Damage is no error: it is logged and shows as a gap in
        offsets."""
        number = self._tail.first_number
        while not self._tail.is_sealed or number <= self._tail.sealed_number:
            file = await self._open(number)
            number += 1
            if file is None:
                if self._tail.is_sealed:
                    continue  # it was found empty when the session was sealed
                if not await self._is_missing(number - 1):
                    break
                continue
            self.files.append(file)
            self._held.append((file, await self._flushes(file)))
        for file, flushes in self._held:
            await self._apply_all(file, flushes)
        if self._tail.is_sealed and self.sequence < self._tail.sealed_sequence:
            log.error(
                "the write-ahead log is damaged: its end is lost",
                session=self._tail.session_id,
                sequence=self.sequence,
                sealed_sequence=self._tail.sealed_sequence,
            )

    async def _is_missing(self, number: int) -> bool:
        """Whether later files show that there was one of this number: without a gap there is nothing after the last."""
        names = [info.name for info in await self._store.list("wal/")]
        if all((file_number(name, self._tail.session_id) or 0) <= number for name in names):
            return False
        log.error("the write-ahead log is damaged: a file is missing", file=file_name(self._tail.session_id, number))
        return True

    async def _apply_all(self, file: WalFile, flushes: list[Head]) -> None:
        stop = len(flushes)
        if self._tail.is_sealed:
            stop = bisect_right(flushes, self._tail.sealed_sequence, key=_sequence)
        if not stop:
            return
        first, last = _header(flushes[0]), _header(flushes[stop - 1])
        file.first_sequence, file.first_link = first.sequence, first.previous_crc
        done = 0
        while done < stop:
            small, found = by_partition(flushes, done, min(stop, done + SLICE_FLUSHES))
            for partition, (rows, entries) in found.items():
                topic_id, index = PARTITION.unpack(partition)
                self._taking.take_rows(file, PartitionId(topic_id, index), rows, entries)
            if small == done:
                await self._apply_one(file, flushes[done])
            done = max(small, done + 1)
            await asyncio.sleep(0)
        self.sequence = last.sequence
        file.end_position = flushes[stop - 1][0] + last.total_bytes

    async def _apply_one(self, file: WalFile, flush: Head) -> None:
        position, head = flush
        header = decode_header(head)
        shares = decode_shares(head, header)
        await self._open_bulk(shares)
        for share in shares:
            self._taking.take_share(file, position + header.head_bytes, share, self.bulk.get(share.reference))

    async def _open(self, number: int) -> WalFile | None:
        name = file_name(self._tail.session_id, number)
        try:
            file = await self._store.open_append(name)
            size_bytes = await self._store.size(name)
        except NotFound:
            return None
        return WalFile(file, self._next_ordinal(), self._tail.session_id, number, size_bytes)

    async def _flushes(self, file: WalFile) -> list[Head]:
        """The flushes of one file that follow what was found before."""
        try:
            data = await self._store.read(index_name(file.session_id, file.number))
            flushes = decode_index(data, file.session_id, file.number)
            if flushes:
                self._expect(_header(flushes[0]), file)
                self._drop_rewritten(_header(flushes[0]))
        except NotFound:
            flushes = await self._walk(file)
        except Corrupt as error:
            log.error(
                "index of a write-ahead-log file is damaged, the file is walked", file=file.file.name, reason=str(error)
            )
            flushes = await self._walk(file)
        if flushes:
            last = _header(flushes[-1])
            self._chain = ChainState(last.sequence, last.crc)
        return flushes

    def _expect(self, first: FlushHeader, file: WalFile) -> None:
        if first.sequence > self._chain.sequence + 1:
            log.error(
                "the write-ahead log is damaged: flushes are lost",
                file=file.file.name,
                first_sequence=self._chain.sequence + 1,
                next_sequence=first.sequence,
            )

    def _drop_rewritten(self, first: FlushHeader) -> None:
        """A flush that failed was written anew at the start of the next file: what an earlier file has of it does not
        count."""
        for file, flushes in self._held:
            kept = bisect_left(flushes, first.sequence, key=_sequence)
            if kept < len(flushes):
                log.info(
                    "flushes of an abandoned file were written anew", file=file.file.name, count=len(flushes) - kept
                )
                del flushes[kept:]
        self._chain = ChainState(first.sequence - 1, first.previous_crc)

    def _is_rewritten(self, first: FlushHeader) -> bool:
        """Whether the first flush of a file replaces flushes found before: it links to one of them, which old bytes
        cannot."""
        if first.session_id != self._tail.session_id or first.sequence > self._chain.sequence:
            return False
        for _, flushes in self._held:
            at = bisect_left(flushes, first.sequence, key=_sequence)
            if at < len(flushes) and _sequence(flushes[at]) == first.sequence:
                return _header(flushes[at]).previous_crc == first.previous_crc
        return False

    async def _walk(self, file: WalFile) -> list[Head]:
        walker = FileWalk(file.file, file.session_id, self._chain)
        start = await walker.flush_at(0)
        if start is not None and self._is_rewritten(_header(start)):
            self._drop_rewritten(_header(start))
            walker.chain = self._chain
        flushes = await walker.flushes(0)
        while (later := await walker.search(walker.position)) is not None:
            header = _header(later)
            if header.durable_through < walker.chain.sequence + 1:
                break  # nothing proves that what is missing had been durable: a torn tail
            log.error(
                "the write-ahead log is damaged: flushes are lost",
                file=file.file.name,
                position=walker.position,
                until=later[0],
                first_sequence=walker.chain.sequence + 1,
                next_sequence=header.sequence,
            )
            walker.chain = ChainState(header.sequence - 1, header.previous_crc)
            flushes.extend(await walker.flushes(later[0]))
        self.walked_bytes += walker.position
        flushes = await self._drop_torn(file, flushes)
        # So that an index can be written, and the next recovery need not walk.
        file.heads = list(flushes)
        return flushes

    async def _drop_torn(self, file: WalFile, flushes: list[Head]) -> list[Head]:
        """Cuts the flushes after which something that was never known to be durable is not whole."""
        durable_through = _header(flushes[-1]).durable_through if flushes else 0  # it never goes back
        for number in range(bisect_right(flushes, durable_through, key=_sequence), len(flushes)):
            problem = await self._payload_problem(file.file, flushes[number])
            if problem is not None:
                log.warning(
                    "torn tail of the write-ahead log is dropped: it was never acknowledged as durable",
                    file=file.file.name,
                    position=flushes[number][0],
                    sequence=_sequence(flushes[number]),
                    reason=problem,
                )
                return flushes[:number]
        return flushes

    async def _payload_problem(self, file: ReadFile, flush: Head) -> str | None:
        position, head = flush
        header = decode_header(head)
        payload = await _read(file, position + header.head_bytes, header.payload_bytes)
        if len(payload) < header.payload_bytes:
            return "the file ends inside the flush"
        shares = decode_shares(head, header)
        await self._open_bulk(shares)
        for share in shares:
            data = payload[share.position : share.position + share.size_bytes]
            if share.reference:
                if not self._needs(share):
                    continue  # in a segment, or of a log that is gone: so may the file be
                bulk = self.bulk[share.reference]
                if bulk is None:
                    return f"{share.reference} is missing"
                data = await _read(bulk, share.position, share.size_bytes)
            if crc32c(data) != share.checksum:
                last_offset = share.next_offset - 1
                return f"offsets {share.base_offset}..{last_offset} of {share.partition} do not match their checksum"
        return None

    async def _open_bulk(self, shares: Sequence[Share]) -> None:
        """Opens the files that those refer to which are needed."""
        for share in shares:
            if share.reference and share.reference not in self.bulk and self._needs(share):
                try:
                    self.bulk[share.reference] = await self._store.open_append(share.reference)
                except NotFound:
                    self.bulk[share.reference] = None


def _header(flush: Head) -> FlushHeader:
    return decode_header(flush[1])


def _sequence(flush: Head) -> int:
    """Ascending from flush to flush of a file."""
    return decode_header(flush[1]).sequence


async def _read(file: ReadFile, position: int, size_bytes: int) -> memoryview:
    data = file.read_cached(position, size_bytes)
    return data if data is not None else await file.read(position, size_bytes)


class FileWalk:
    """Reads heads one after the other through a window, so that small flushes cost no system call each."""

    def __init__(self, file: ReadFile, session_id: int, chain: ChainState) -> None:
        self._file = file
        self._session_id = session_id
        self._window = memoryview(b"")
        self._window_position = 0
        self._window_is_last = False
        self.chain = chain
        self.position = 0
        """Where the walk stopped."""

    async def flushes(self, position: int) -> list[Head]:
        """Flushes from `position` on, while each is the successor of the one before."""
        found: list[Head] = []
        while True:
            start = await self._start_of(position)
            heads, after, *last = chained(
                self._window, start, self._window_position, self._session_id, *self.chain, False
            )
            if not heads:
                heads, after, *last = await self._large(position)
            if not heads:
                break
            found += heads
            position = self._window_position + after
            self.chain = ChainState(*last)
            await asyncio.sleep(0)
        self.position = position
        return found

    async def _large(self, position: int) -> tuple[list[Head], int, int, int]:
        """The flush there, if it is the next one: its head may not be whole in the window so far."""
        await self.flush_at(position)
        start = position - self._window_position
        return chained(self._window, start, self._window_position, self._session_id, *self.chain, False)

    async def search(self, position: int) -> Head | None:
        """The next flush of this session with a sequence not seen yet, at or after `position`."""
        prefix = flush_prefix(self._session_id)  # a file used again is full of flushes of others
        while True:
            data = bytes(await self._read(position, WINDOW_BYTES))
            if len(data) < FLUSH_HEADER_BYTES:
                return None
            at = data.find(prefix) if data != _ZEROES[: len(data)] else -1  # most of a file that is new is so
            while at >= 0:
                if (position + at) % ALIGNMENT == 0:
                    flush = await self.flush_at(position + at, self._is_later)
                    if flush is not None:
                        return flush
                at = data.find(prefix, at + 1)
            position += len(data) - len(prefix) + 1

    def _is_later(self, header: FlushHeader) -> bool:
        return is_later(header, self._session_id, self.chain.sequence)

    async def flush_at(self, position: int, is_wanted: Callable[[FlushHeader], bool] = lambda _: True) -> Head | None:
        """The flush there if it is wanted and its head is whole. Of others nothing but the header is read: a client may
        have made up a thousand with an index of a hundred megabytes each.
        """
        start = await self._start_of(position)
        try:
            header = decode_header(self._window, start)
            if not is_wanted(header):
                return None
            if start + header.head_bytes > len(self._window):
                await self._fill_window(position, header.head_bytes)
                start = 0
            # Copied: a slice would keep the whole window alive.
            head = bytes(self._window[start : start + header.head_bytes])
            check_head(head, header)
        except Corrupt:
            return None
        return position, head

    async def _start_of(self, position: int) -> int:
        """Where `position` is in the window, which is moved there if little of it is left."""
        start = position - self._window_position
        if start < 0 or (start + LEAST_WINDOW_BYTES > len(self._window) and not self._window_is_last):
            await self._fill_window(position, WINDOW_BYTES)
            start = 0
        return start

    async def _read(self, position: int, size_bytes: int) -> memoryview:
        start = position - self._window_position
        if start < 0 or start + size_bytes > len(self._window):
            await self._fill_window(position, max(size_bytes, WINDOW_BYTES))
            start = 0
        return self._window[start : start + size_bytes]

    async def _fill_window(self, position: int, size_bytes: int) -> None:
        self._window = await self._file.read(position, size_bytes)
        self._window_position = position
        self._window_is_last = len(self._window) < size_bytes
