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
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
)
from bytemq.storage.wal.wal_files import WalFile
from bytemq.storage.wal.wal_index import StoredFlush, TailRecord, decode_index, file_name, file_number, index_name

log = get_logger("storage.recovery")

WINDOW_BYTES = 1024 * 1024
LEAST_WINDOW_BYTES = 64 * 1024
"""What is left of a window in which the next head may begin: most are whole in it then."""
SLICE_FLUSHES = 256
"""Flushes handled before the event loop may do something else."""


class ChainState(NamedTuple):
    """The last flush found: the next one has the sequence after it and links to its CRC."""

    sequence: int
    crc: int


BulkByName = Mapping[str, AppendFile | None]


class SessionRecovery:
    """Recovers one session's files in order; `apply(file, flush, shares, bulk)` is called for each flush that counts.

    `needs` says of a share whether its log has it from nowhere else. `bulk` are the files that such shares refer to, by
    name; None for one that is missing.
    """

    def __init__(
        self,
        store: Store,
        tail: TailRecord,
        next_ordinal: Callable[[], int],
        needs: Callable[[Share], bool],
        apply: Callable[[WalFile, StoredFlush, Sequence[Share], BulkByName], None],
    ) -> None:
        self._store = store
        self._tail = tail
        self._next_ordinal = next_ordinal
        self._needs = needs
        self._apply = apply
        self._chain = ChainState(tail.first_sequence - 1, tail.first_link)
        self._held: list[tuple[WalFile, list[StoredFlush]]] = []
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

    async def _apply_all(self, file: WalFile, flushes: list[StoredFlush]) -> None:
        for count, flush in enumerate(flushes):
            header = flush.header
            if self._tail.is_sealed and header.sequence > self._tail.sealed_sequence:
                return
            if not count:
                file.first_sequence, file.first_link = header.sequence, header.previous_crc
            shares = decode_shares(flush.head, header)
            await self._open_bulk(shares)
            self._apply(file, flush, shares, self.bulk)
            self.sequence = header.sequence
            file.end_position = flush.position + header.total_bytes
            if count % SLICE_FLUSHES == SLICE_FLUSHES - 1:
                await asyncio.sleep(0)

    async def _open(self, number: int) -> WalFile | None:
        name = file_name(self._tail.session_id, number)
        try:
            file = await self._store.open_append(name)
            size_bytes = await self._store.size(name)
        except NotFound:
            return None
        return WalFile(file, self._next_ordinal(), self._tail.session_id, number, size_bytes)

    async def _flushes(self, file: WalFile) -> list[StoredFlush]:
        """The flushes of one file that follow what was found before."""
        try:
            data = await self._store.read(index_name(file.session_id, file.number))
            flushes = list(decode_index(data, file.session_id, file.number))
            if flushes:
                self._expect(flushes[0].header, file)
                self._drop_rewritten(flushes[0].header)
        except NotFound:
            flushes = await self._walk(file)
        except Corrupt as error:
            log.error(
                "index of a write-ahead-log file is damaged, the file is walked", file=file.file.name, reason=str(error)
            )
            flushes = await self._walk(file)
        if flushes:
            self._chain = ChainState(flushes[-1].header.sequence, flushes[-1].header.crc)
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
            kept = [flush for flush in flushes if flush.header.sequence < first.sequence]
            if len(kept) < len(flushes):
                log.info(
                    "flushes of an abandoned file were written anew",
                    file=file.file.name,
                    count=len(flushes) - len(kept),
                )
                flushes[:] = kept
        self._chain = ChainState(first.sequence - 1, first.previous_crc)

    def _is_rewritten(self, first: FlushHeader) -> bool:
        """Whether the first flush of a file replaces flushes found before: it links to one of them, which old bytes
        cannot."""
        if first.session_id != self._tail.session_id or first.sequence > self._chain.sequence:
            return False
        for _, flushes in self._held:
            for flush in flushes:
                if flush.header.sequence == first.sequence:
                    return flush.header.previous_crc == first.previous_crc
        return False

    async def _walk(self, file: WalFile) -> list[StoredFlush]:
        walker = FileWalk(file.file, file.session_id, self._chain)
        start = await walker.flush_at(0)
        if start is not None and self._is_rewritten(start.header):
            self._drop_rewritten(start.header)
            walker.chain = self._chain
        flushes = await walker.flushes(0)
        while (later := await walker.search(walker.position)) is not None:
            if later.header.durable_through < walker.chain.sequence + 1:
                break  # nothing proves that what is missing had been durable: a torn tail
            log.error(
                "the write-ahead log is damaged: flushes are lost",
                file=file.file.name,
                position=walker.position,
                until=later.position,
                first_sequence=walker.chain.sequence + 1,
                next_sequence=later.header.sequence,
            )
            walker.chain = ChainState(later.header.sequence - 1, later.header.previous_crc)
            flushes.extend(await walker.flushes(later.position))
        self.walked_bytes += walker.position
        flushes = await self._drop_torn(file, flushes)
        # So that an index can be written, and the next recovery need not walk.
        file.heads = [(flush.position, bytes(flush.head)) for flush in flushes]
        return flushes

    async def _drop_torn(self, file: WalFile, flushes: list[StoredFlush]) -> list[StoredFlush]:
        """Cuts the flushes after which something that was never known to be durable is not whole."""
        durable_through = max((flush.header.durable_through for flush in flushes), default=0)
        for count, flush in enumerate(flushes):
            if flush.header.sequence <= durable_through:
                continue
            problem = await self._payload_problem(file.file, flush)
            if problem is not None:
                log.warning(
                    "torn tail of the write-ahead log is dropped: it was never acknowledged as durable",
                    file=file.file.name,
                    position=flush.position,
                    sequence=flush.header.sequence,
                    reason=problem,
                )
                return flushes[:count]
        return flushes

    async def _payload_problem(self, file: ReadFile, flush: StoredFlush) -> str | None:
        header = flush.header
        payload = await _read(file, flush.position + header.head_bytes, header.payload_bytes)
        if len(payload) < header.payload_bytes:
            return "the file ends inside the flush"
        shares = decode_shares(flush.head, header)
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

    async def flushes(self, position: int) -> list[StoredFlush]:
        """Flushes from `position` on, while each is the successor of the one before."""
        found: list[StoredFlush] = []
        sequence, crc = self.chain
        while (flush := await self.flush_at(position)) is not None:
            header = flush.header
            if (header.session_id, header.sequence - 1, header.previous_crc) != (self._session_id, sequence, crc):
                break
            sequence, crc = header.sequence, header.crc
            found.append(flush)
            position += header.total_bytes
            if len(found) % SLICE_FLUSHES == 0:
                await asyncio.sleep(0)
        self.chain, self.position = ChainState(sequence, crc), position
        return found

    async def search(self, position: int) -> StoredFlush | None:
        """The next flush of this session with a sequence not seen yet, at or after `position`."""
        prefix = flush_prefix(self._session_id)  # a file used again is full of flushes of others
        while True:
            data = bytes(await self._read(position, WINDOW_BYTES))
            if len(data) < FLUSH_HEADER_BYTES:
                return None
            at = data.find(prefix)
            while at >= 0:
                if (position + at) % ALIGNMENT == 0:
                    flush = await self.flush_at(position + at)
                    if flush is not None and self._is_later(flush.header):
                        return flush
                at = data.find(prefix, at + 1)
            position += len(data) - len(prefix) + 1

    def _is_later(self, header: FlushHeader) -> bool:
        return header.session_id == self._session_id and header.sequence > self.chain.sequence

    async def flush_at(self, position: int) -> StoredFlush | None:
        """The flush there, whatever it is, if its head is whole."""
        start = position - self._window_position
        if start < 0 or (start + LEAST_WINDOW_BYTES > len(self._window) and not self._window_is_last):
            await self._fill_window(position, WINDOW_BYTES)
            start = 0
        try:
            header = decode_header(self._window, start)
            head_bytes = header.head_bytes
            if start + head_bytes > len(self._window):
                await self._fill_window(position, head_bytes)
                start = 0
            # Copied: a slice would keep the whole window alive.
            head = bytes(self._window[start : start + head_bytes])
            check_head(head, header)
        except Corrupt:
            return None
        return StoredFlush(position, header, memoryview(head))

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
