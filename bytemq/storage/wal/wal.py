"""The writer of the write-ahead log: one append stream per session, many partitions in one flush.

Owns: group commit, the order of flushes, and what happens when one fails. Must not: know what a log is beyond where its
committed bytes are, or decide what is written behind.

Appends are staged; a flush starts at once when none is in flight and takes everything staged, gathered by partition. It
is written from the appenders' buffers and synced in one go in a thread; meanwhile the next one gathers. After a failed
write the file is abandoned and the same flush written anew to another file. When that fails too, it and everything
staged behind it fails, and the offsets of every log involved roll back to what is committed.

Large shares go to bulk files (`bulk`), side by side with the flush, which refers to them. When that fails the flush is
written anew with everything in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from bytemq.errors import BytemqError, Invalid, Unavailable
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.settings import Durability, StorageConfig
from bytemq.storage.shared_file import HolderFile
from bytemq.storage.stores.interface import Buffer
from bytemq.storage.wal.bulk import BulkFile, BulkFiles, Placed, references
from bytemq.storage.wal.extents import Chunk
from bytemq.storage.wal.format import FLUSH_HEADER_BYTES, aligned, encode_head
from bytemq.storage.wal.inline_writes import InlineWrites
from bytemq.storage.wal.staging import Append, Flush, OnDurable, Staged, Staging
from bytemq.storage.wal.wal_files import WalFile, WalFiles

log = get_logger("storage.wal")

ATTEMPTS = 2
_PADDING = [bytes(length) for length in range(8)]


class _Encoded(NamedTuple):
    """A flush as it goes into a file of the write-ahead log."""

    head: bytes
    crc: int
    buffers: Sequence[Buffer]
    total_bytes: int


class Wal:
    """`on_roll` is called when a file became full: the moment to look whether something should be written behind.

    `room` is awaited before another file is taken.
    """

    def __init__(
        self,
        files: WalFiles,
        bulk: BulkFiles,
        session_id: int,
        config: StorageConfig,
        clock: Clock,
        durability: Durability,
        on_roll: Callable[[], None],
        room: Callable[[], Awaitable[None]],
        supervisor: Supervisor,
        first_sequence: int,
    ) -> None:
        self._files = files
        self._bulk = bulk
        self._session_id = session_id
        self._config = config
        self._clock = clock
        self._synced = durability == "fsync"
        self._inline = InlineWrites(config.wal_inline_bytes if durability == "page-cache" else -1, clock)
        self._on_roll = on_roll
        self._room = room
        self._supervisor = supervisor
        self._said = LogGate(clock.monotonic)
        self._staging = Staging(config)
        self._in_flight: Sequence[Staged] = ()
        self._wakeup: asyncio.Future[None] | None = None
        self._closing = False
        self._file: WalFile | None = None
        self._sequence = first_sequence - 1
        self._previous_crc = 0
        self._durable_through = first_sequence - 1
        self._retry_at = 0.0
        self._probe_waits = False
        self._background: set[asyncio.Task[object]] = set()
        self._unsynced: dict[HolderFile, None] = {}
        """In the order in which they were written to."""
        self._sync_lock = asyncio.Lock()
        self.failure: BytemqError | None = None
        """Why the last flush failed; None once something could be written again."""
        self.has_died = False
        """Whether `run` ended by a fault that nobody had foreseen: everything appended is refused then."""

    # Appending.

    def append(self, files: LogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        self.append_all(((files, batches, on_durable),))

    def append_all(self, appends: Sequence[Append]) -> None:
        if self._closing:
            raise Invalid("an append needs a storage that is open")
        self._staging.add(appends)
        if self.has_died:
            asyncio.get_running_loop().call_soon(self._refuse)
        if self._wakeup is not None:
            self._wakeup.set_result(None)
            self._wakeup = None

    @property
    def pending_bytes(self) -> int:
        return self._staging.pending_bytes

    async def run(self) -> None:
        """Writes what is staged until `stop` was called and nothing is left.

        Raises only what nobody had foreseen; then what is pending was answered, and everything later is refused.
        """
        try:
            await self._write_staged()
        except Exception as error:
            self.has_died = True
            self.failure = Unavailable(f"the write-ahead log has ended: {error!r}")
            self._refuse()
            raise

    def _refuse(self) -> None:
        """Fails everything pending."""
        assert self.failure is not None
        doomed = [*self._in_flight, *self._staging.take_all()]
        self._in_flight = ()
        self._staging.fail(doomed, self.failure)

    async def _write_staged(self) -> None:
        while True:
            if not self._staging:
                if self._closing:
                    return
                self._wakeup = asyncio.get_running_loop().create_future()
                await self._wakeup
                continue
            flush = self._staging.gather()
            self._in_flight = flush.appends
            placed: Sequence[Placed] = self._bulk.place(flush)
            self._bulk.hold(placed)
            try:
                if self.failure is not None and self._clock.monotonic() < self._retry_at:
                    raise self.failure
                file, position, encoded, written = await self._write(flush, placed)
            except BytemqError as error:
                self._bulk.give_up(placed)
                self._fail(flush, error)
            else:
                self._commit(flush, file, position, encoded, written)
            finally:
                self._bulk.let_go(placed)

    async def sync(self) -> bool:
        """Makes everything committed so far durable: with page-cache durability that is not so by itself.

        Returns whether it is: not while a file whose sync failed is in use, since syncing it again proves nothing. Such
        a file is not written to any more, and forgotten once all of it was written behind. Raises Unavailable when a
        sync fails now; the other files were synced.
        """
        async with self._sync_lock:  # whoever returns from here knows that also what others had begun is done
            files, self._unsynced = list(self._unsynced), {}
            sequence = self._sequence
            failure: Unavailable | None = None
            try:
                while files:
                    try:
                        await self._files.sync(files[0])
                    except Unavailable as error:
                        files[0].is_doubtful, failure = True, error
                    del files[0]
            except BaseException:  # a cancellation, too: the clean stop that follows syncs them
                self._unsynced = {**dict.fromkeys(files), **self._unsynced}
                raise
            used = (*self._files.live, *self._bulk.live.values())
            certain = [file.first_sequence - 1 for file in used if file.is_doubtful]
            self._durable_through = max(self._durable_through, min([sequence, *certain]))
            if failure is not None:
                raise failure
            return self._durable_through >= sequence

    @property
    def next_link(self) -> tuple[int, int]:
        """Sequence of the flush to come and the CRC that it will link to."""
        return self._sequence + 1, self._previous_crc

    @property
    def current_ordinal(self) -> int:
        """Files with a lower ordinal are not written to any more."""
        return self._file.ordinal if self._file is not None else self._files.next_ordinal()

    def stop(self) -> None:
        """Makes `run` return when everything staged was written."""
        self._closing = True
        if self._wakeup is not None:
            self._wakeup.set_result(None)
            self._wakeup = None

    async def finish(self) -> tuple[int, int]:
        """After `run` has returned: writes the last index. Returns the last file's number and the last sequence.

        Not for a log that has died: what its last flush left behind is for recovery to find out. Raises Unavailable as
        `sync`; then, too, nothing is written any more.
        """
        try:
            await self.sync()
            if self._file is not None:
                self._seal(self._file)
        finally:
            while self._background:
                await asyncio.wait(self._background)
        return self._files.last_number, self._sequence

    # One flush.

    def _encode(self, flush: Flush, placed: Sequence[Placed]) -> _Encoded:
        elsewhere = references(placed, flush)
        durable_through, link = self._durable_through, self._previous_crc
        head, crc = encode_head(self._session_id, self._sequence + 1, durable_through, link, flush.shares, elsewhere)
        buffers: list[Buffer] = [head]
        written_bytes = len(head)
        for number, share in enumerate(flush.shares):
            if number not in elsewhere:
                buffers.extend([batch.view for batch in share.batches])
                written_bytes += share.size_bytes
        total_bytes = aligned(written_bytes)
        if total_bytes != written_bytes:
            buffers.append(_PADDING[total_bytes - written_bytes])
        return _Encoded(head, crc, buffers, total_bytes)

    async def _write(self, flush: Flush, placed: Sequence[Placed]) -> tuple[WalFile, int, _Encoded, Sequence[Placed]]:
        """Writes a flush where it can be written. Returns its file and position there, and what is in bulk files."""
        encoded = self._encode(flush, placed)
        tried: list[tuple[WalFile, int]] = []
        without_bulk: list[tuple[WalFile, int]] = []
        while True:
            file, total_bytes = self._file, encoded.total_bytes
            if file is None or file.is_doubtful or file.end_position + total_bytes > file.size_bytes:
                try:
                    file = await self._roll(total_bytes)
                except BytemqError:
                    await self._erase([*without_bulk, *tried])
                    raise
            position = file.end_position
            try:
                if placed:
                    in_bulk, in_file = await self._write_with_bulk(placed, flush, file, position, encoded)
                    if isinstance(in_bulk, BytemqError):
                        log.error("bulk goes into the write-ahead log", reason=str(in_bulk))
                        self._bulk.give_up(placed)
                        placed = ()
                        encoded = self._encode(flush, placed)
                    elif in_bulk is not None:
                        raise in_bulk
                    if in_file is not None:
                        raise in_file
                    if not placed:
                        without_bulk.append((file, position))
                        continue
                else:
                    await self._write_to(file, position, encoded)
            except Unavailable as error:
                log.error("write-ahead-log file is abandoned", file=file.file.name, reason=str(error))
                self._seal(file)
                self._file = None
                tried.append((file, position))
                if len(tried) == ATTEMPTS:
                    await self._erase([*without_bulk, *tried])
                    raise
            else:
                file.end_position = position + total_bytes
                return file, position, encoded, placed

    async def _write_with_bulk(
        self, placed: Sequence[Placed], flush: Flush, file: WalFile, position: int, encoded: _Encoded
    ) -> Sequence[BaseException | None]:
        """Returns what went wrong with the bulk, and with the file."""
        if self._synced:
            return await asyncio.gather(
                self._bulk.write(placed, flush), self._write_to(file, position, encoded), return_exceptions=True
            )
        try:  # in one go; if that was the file's fault, it shows when the flush is written without bulk
            also = file.writable, encoded.buffers, position
            if self._inline.begins(flush.size_bytes):
                self._bulk.write_now(placed, flush, also)
                self._inline.ended()
            else:
                await self._bulk.write(placed, flush, also)
        except BytemqError as error:
            return error, None
        return None, None

    async def _write_to(self, file: WalFile, position: int, encoded: _Encoded) -> None:
        if self._inline.begins(encoded.total_bytes):
            file.writable.write_now(encoded.buffers, position)
            self._inline.ended()
        else:
            await file.writable.write(encoded.buffers, position, sync=self._synced)

    async def _roll(self, size_bytes: int) -> WalFile:
        """Goes on in another file."""
        if self._file is not None:
            self._seal(self._file)
            self._file = None
        await self._room()
        self._file = await self._files.take(size_bytes)
        self._on_roll()
        return self._file

    def _seal(self, file: WalFile) -> None:
        """Nothing more is written to the file."""
        task = self._supervisor.start("wal-index", self._write_index(file))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _write_index(self, file: WalFile) -> None:
        """An index says that the flushes in it are whole: the file must be durable first."""
        try:
            await self.sync()
        except BytemqError as error:
            log.error("the write-ahead log could not be synced", file=file.file.name, reason=str(error))
        if file not in self._unsynced and not file.is_doubtful:
            await self._files.write_index(file)

    async def _erase(self, tried: Sequence[tuple[WalFile, int]]) -> None:
        """Makes sure, if it can, that a flush reported as failed is not found by a later recovery."""
        for file, position in tried:
            try:
                await file.writable.write([bytes(FLUSH_HEADER_BYTES)], position, sync=True)
            except Unavailable as error:
                log.error("a failed flush was not erased", file=file.file.name, position=position, reason=str(error))

    def _commit(self, flush: Flush, file: WalFile, position: int, encoded: _Encoded, placed: Sequence[Placed]) -> None:
        """The flush is durable: makes its bytes readable, then tells the appenders, in order."""
        self._sequence += 1
        if self._synced:
            self._durable_through = self._sequence
        elif not file.is_doubtful:
            self._unsynced[file] = None
        if not file.heads:
            file.first_sequence, file.first_link = self._sequence, self._previous_crc
        file.heads.append((position, encoded.head))
        self._previous_crc = encoded.crc
        position += len(encoded.head)
        in_bulk: list[BulkFile | None] = [None] * len(flush.logs)
        for bulk_file, first, behind in placed:
            in_bulk[first:behind] = [bulk_file] * (behind - first)
        for files, share, bulk in zip(flush.logs, flush.shares, in_bulk, strict=True):
            _, batches, size_bytes, newest, checksum = share
            if bulk is None:
                chunk = Chunk(batches[0].base_offset, batches[-1].next_offset, position, size_bytes, newest)
                files.wal.append(chunk, file.ordinal, checksum, verified=True)
                position += size_bytes
            else:
                chunk = Chunk(batches[0].base_offset, batches[-1].next_offset, bulk.end_position, size_bytes, newest)
                files.wal.append(chunk, file.ordinal, checksum, verified=True, holder=bulk.ordinal)
                bulk.commit(chunk, checksum, self._sequence)
            if files.recent is not None:
                files.committed(chunk, batches)
        if not self._synced:
            for one in placed:
                if not one.bulk.is_doubtful:
                    self._unsynced[one.bulk] = None
        if file.end_position * 2 > file.size_bytes:
            self._files.prepare()
        self.failure = None
        self._in_flight = ()
        self._staging.finish(flush.appends, None)

    def _fail(self, flush: Flush, error: BytemqError) -> None:
        if error is not self.failure:
            kept_back = self._said.allow(type(error))
            if kept_back is not None:
                count = len(flush.appends) + len(self._staging)
                log.error("appends failed", count=count, reason=str(error), not_logged_since=kept_back)
            self.failure = error
            self._retry_at = self._clock.monotonic() + self._config.retry_delay_ms / 1000
            self._probe_later()
            self._on_roll()
        self._refuse()

    def _probe_later(self) -> None:
        """One probe at a time, however often a flush fails meanwhile."""
        if not self._probe_waits:
            self._probe_waits = True
            self._clock.call_later(self._config.retry_delay_ms / 1000, self._probe)

    def _probe(self) -> None:
        """Finds out whether there is room again, so that the storage becomes healthy before somebody appends."""
        self._probe_waits = False
        if self.failure is None or self._closing or self.has_died:
            return
        if self._files.is_prepared:
            self.failure = None
            return
        self._files.prepare()
        self._probe_later()
