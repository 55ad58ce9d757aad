"""The files of the write-ahead log: made ahead of need, filled, released, used again.

Owns: names, numbers and space of the files of one session, and its tail record in the metadata store. Must not: know
what is written into them.

A file is preallocated with its zeros written, or one that was released, under a new name: its old bytes cannot pass for
new, because every flush carries session and sequence under its CRC. The tail record says which files are needed; it is
published before one that is no longer needed is touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bytemq.errors import BytemqError, Fenced, Full
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.settings import StorageConfig
from bytemq.storage.shared_file import HolderFile
from bytemq.storage.stores.interface import ObjectInfo, ReadFile, Store
from bytemq.storage.wal.wal_index import TailRecord, encode_index, encode_tail, file_name, index_name

log = get_logger("storage.wal")

MIN_SPARE_FILES = 2
SPARE_PREFIX = "wal/spare-"


class WalFile(HolderFile):
    """One file: of this session, or found by recovery."""

    __slots__ = (
        "end_position",
        "first_link",
        "heads",
        "is_kept",
        "number",
        "session_id",
        "size_bytes",
    )

    def __init__(self, file: ReadFile, ordinal: int, session_id: int, number: int, size_bytes: int) -> None:
        super().__init__(file, ordinal)
        self.session_id = session_id
        self.number = number
        self.size_bytes = size_bytes
        self.first_link = 0
        """The CRC that its first flush links to."""
        self.end_position = 0
        """Where the next flush goes."""
        self.heads: list[tuple[int, bytes]] = []
        """(position, head) of the flushes in it, until its index is written."""
        self.is_kept = False
        """Whether it holds what nobody can make use of at present, and must not be released by this session."""


class WalFiles:
    """See the module's docstring. `live` holds the files still needed, oldest first, those of earlier sessions
    included."""

    def __init__(
        self,
        store: Store,
        metadata: MetadataStore,
        session_id: int,
        config: StorageConfig,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._session_id = session_id
        self._config = config
        self._supervisor = supervisor
        self._tails: dict[int, tuple[TailRecord, int]] = {}
        """As written last, and its revision; -1 while nobody knows whether that was applied."""
        self._next_number = 0
        self._next_ordinal = 0
        self._next_spare = 0
        self._spares: list[str] = []
        self._own_spares = f"{SPARE_PREFIX}{session_id:x}-"
        self._prepared: WalFile | None = None
        self._preparing: asyncio.Task[object] | None = None
        self._prepare_failed = False
        self._making = asyncio.Lock()
        self.live: list[WalFile] = []
        self._leaving: set[str] = set()
        """Names of files that are not live any more and not discarded yet."""
        self.by_ordinal: dict[int, HolderFile] = {}
        """Everything that extents are in: those of `live`, and the bulk files."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.live)

    @property
    def _wants_spare(self) -> bool:
        """Spares are kept up to a quarter of what may be retained: write-behind releases about so many at once."""
        wanted = self._config.wal_retained_bytes // 4 // self._config.wal_file_bytes
        return len(self._spares) < max(wanted, MIN_SPARE_FILES)

    @property
    def is_prepared(self) -> bool:
        """Whether the next file is ready."""
        return self._prepared is not None

    @property
    def last_number(self) -> int:
        """Number of the newest file of this session that may hold flushes; 0 before there is one."""
        return max((file.number for file in self.live if file.session_id == self._session_id), default=0)

    def next_ordinal(self) -> int:
        self._next_ordinal += 1
        return self._next_ordinal

    def adopt(self, file: WalFile) -> None:
        """Takes a file that recovery found."""
        self.live.append(file)
        self.by_ordinal[file.ordinal] = file

    def keep(self, file: WalFile) -> None:
        """Keeps a file of an earlier session, and those after it: recovery wants a session's files without a gap."""
        for other in self.live:
            if other.session_id == file.session_id and other.number >= file.number:
                other.is_kept = True

    def adopt_spare(self, info: ObjectInfo) -> bool:
        """Takes a file that an earlier session had no more use for, if it is one and there is need for it."""
        right = info.name.startswith(SPARE_PREFIX) and info.size_bytes == self._config.wal_file_bytes
        if not right or not self._wants_spare:
            return False
        self._spares.append(info.name)
        return True

    # Making files.

    async def take(self, size_bytes: int) -> WalFile:
        """An empty file with room for a flush of `size_bytes`. Raises Full or Unavailable."""
        while self._preparing is not None:  # files are filled in the order of their numbers
            await asyncio.wait([self._preparing])
        file, self._prepared = self._prepared, None
        if file is None or file.size_bytes < size_bytes:
            if file is not None:
                self.adopt(file)  # stays empty: recovery finds the files by counting, so that no number may be missing
            file = await self._make(max(size_bytes, self._config.wal_file_bytes), zeroed=False)
        self.adopt(file)
        return file

    def prepare(self) -> None:
        """Starts making the next file, so that the writer finds it ready."""
        if self._prepared is None and self._preparing is None:
            self._preparing = self._supervisor.start("wal-prepare", self._prepare())

    async def _prepare(self) -> None:
        try:
            self._prepared = await self._make(self._config.wal_file_bytes, zeroed=True)
            self._prepare_failed = False
        except BytemqError as error:
            if not self._prepare_failed:  # it is tried with every flush, and said once
                log.warning("no write-ahead-log file could be made ahead of need", reason=str(error))
            self._prepare_failed = True
        finally:
            self._preparing = None

    async def _make(self, size_bytes: int, *, zeroed: bool) -> WalFile:
        async with self._making:  # one at a time: each number is given once, and none is left out
            number = self._next_number
            name = file_name(self._session_id, number)
            spare = self._spares.pop() if self._spares and size_bytes == self._config.wal_file_bytes else None
            try:
                if spare is not None:
                    await self._store.rename(spare, name)
                    file = await self._store.open_append(name, urgent=True)
                else:
                    if await self._store.free_bytes() < size_bytes + self._config.reserve_bytes:
                        raise Full("no space for another write-ahead-log file")
                    file = await self._store.create_append(name, size_bytes=size_bytes, zeroed=zeroed, urgent=True)
            except BytemqError:
                # What is half made would be in the way of the next attempt, which gets the same number.
                await self._store.delete([name] if spare is None else [name, spare])
                raise
            self._next_number = number + 1
            return WalFile(file, self.next_ordinal(), self._session_id, number, size_bytes)

    # Sealing and releasing files.

    async def write_index(self, file: WalFile) -> None:
        """Writes the index object of a file that nothing is added to any more. Failing is harmless: recovery walks the
        file."""
        heads, file.heads = file.heads, []
        if not heads:
            return
        parts = encode_index(file.session_id, file.number, heads, file.end_position)
        try:
            await self._store.create(index_name(file.session_id, file.number), parts)
        except BytemqError as error:
            log.warning("the index of a write-ahead-log file was not written", file=file.file.name, reason=str(error))

    async def sync(self, file: HolderFile) -> None:
        """Makes what is in the file durable. One that was released holds nothing any more that anybody needs."""
        if file.ordinal in self.by_ordinal:
            file.pin()
            try:
                await file.writable.sync()
            finally:
                file.unpin()

    async def publish_tail(self, tail: TailRecord, revision: int = 0) -> None:
        """Writes a session's tail record, known or, the first time, at `revision`.

        Raises Fenced when somebody else wrote it meanwhile, Unavailable when the outcome is unknown.
        """
        key = keys.wal_tail(tail.session_id)
        _, revision = self._tails.get(tail.session_id, (tail, revision))
        if revision < 0:  # an earlier call may have been applied
            entry = await self._metadata.get(key)
            revision = entry.revision if entry is not None else 0
        self._tails[tail.session_id] = (tail, -1)
        outcome = await self._metadata.txn([Compare(key, revision)], [Put(key, encode_tail(tail))])
        if not outcome.succeeded:
            raise Fenced(f"the write-ahead log of session {tail.session_id} has another owner")
        self._tails[tail.session_id] = (tail, outcome.revision)

    async def release(self, files: list[WalFile], next_sequence: int, link: int) -> None:
        """The oldest files are no longer needed: their bytes are in published segments, or no log's any more.

        The caller has taken them out of every table. They are reused or deleted when nobody reads them any more.
        `next_sequence` and `link` describe the flush to come, for when no file of this session is needed.
        """
        kept = [file for file in self.live if file not in files]
        first: dict[int, WalFile] = {}
        for file in kept:
            if file.first_sequence:
                first.setdefault(file.session_id, file)
        next_number = self._next_to_fill(kept)
        for session_id, (tail, revision) in list(self._tails.items()):
            needed = first.get(session_id)
            if needed is not None:
                change = (needed.number, needed.first_sequence, needed.first_link)
            elif session_id == self._session_id:
                change = (next_number, next_sequence, link)
            else:
                await self._metadata.txn([], [], [keys.wal_tail(session_id)])
                del self._tails[session_id]
                continue
            if change[0] != tail.first_number or revision < 0:  # what an earlier call wrote may not be there
                number, sequence, link_crc = change
                tail = tail._replace(first_number=number, first_sequence=sequence, first_link=link_crc)
                await self.publish_tail(tail)
        for file in files:
            self.live.remove(file)  # not before: what could not be recorded as released is released by the next call
            del self.by_ordinal[file.ordinal]
            self._leaving.add(file.file.name)
            try:
                await file.unpinned()
                await self._discard(file)
            finally:
                self._leaving.discard(file.file.name)

    def _next_to_fill(self, live: Sequence[WalFile]) -> int:
        """Number of the file that the session's next flush goes into, when none of `live` holds a flush of it."""
        empty = [file.number for file in live if file.session_id == self._session_id]
        if self._prepared is not None:
            empty.append(self._prepared.number)
        return min(empty, default=self._next_number)

    async def _discard(self, file: WalFile) -> None:
        await file.file.close()
        names = [index_name(file.session_id, file.number)]
        if file.size_bytes == self._config.wal_file_bytes and self._wants_spare:
            self._next_spare += 1
            spare = f"{self._own_spares}{self._next_spare:x}"
            await self._store.rename(file.file.name, spare)
            self._spares.append(spare)
        else:
            names.append(file.file.name)
        await self._store.delete(names)

    async def seal(self, number: int, sequence: int) -> None:
        """The session writes no more: what counts ends with this file and flush."""
        tail, _ = self._tails[self._session_id]
        await self.publish_tail(tail._replace(sealed_number=number, sealed_sequence=sequence))

    def is_needed(self, name: str) -> bool:
        """Whether the file, or the file that the index belongs to, is needed for recovery, about to be used, or being
        discarded: who looks for garbage meanwhile must not take it away.
        """
        if name.startswith((self._own_spares, f"wal/{self._session_id:016x}-")):
            return True
        needed = {*self._spares, *self._leaving, *(file.file.name for file in self.live)}
        return name in needed or name.replace(".index", ".log") in needed

    async def close(self) -> None:
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        prepared, self._prepared = self._prepared, None
        try:
            if prepared is not None:
                await self._discard(prepared)
        finally:
            for file in self.live:
                await file.unpinned()
                await file.file.close()
