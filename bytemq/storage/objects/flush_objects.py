"""The objects of write-ahead logs that logs have extents in: this session's own and those of sessions before it.

Owns: their ordinals, by which extents refer to them; which are in memory; which of this session's are needed no more.
Must not: commit, or know logs beyond their extents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from bytemq.storage.cache.block_cache import BlockCache
from bytemq.storage.log_files import LogFiles
from bytemq.storage.objects.session_log import FlushRef, flush_name
from bytemq.storage.objects.tail_memory import FlushFile, TailMemory
from bytemq.storage.shared_file import SharedFile


class FlushObjects:
    def __init__(self, session_id: int, cache: BlockCache, memory: TailMemory) -> None:
        self._session_id = session_id
        self._cache = cache
        self._memory = memory
        self._ordinals: dict[tuple[int, int], int] = {}
        self._own: dict[int, tuple[int, FlushRef]] = {}
        """Sequence to ordinal and reference of this session's flushes that are not released."""
        self._next_ordinal = 0
        self._places: dict[int, tuple[int, FlushRef]] = {}
        """Session and reference by ordinal."""
        self.by_ordinal: dict[int, SharedFile] = {}
        self.own_bytes = 0
        self._unused: set[tuple[int, int]] = set()
        """Of other sessions, when it was last looked."""

    def __len__(self) -> int:
        """How many of this session's are not released."""
        return len(self._own)

    @property
    def memory_bytes(self) -> int:
        return self._memory.size_bytes

    def add_own(self, ref: FlushRef, body: bytes) -> int:
        """Takes a flush that this session has just committed."""
        ordinal = self.ordinal_of(self._session_id, ref)
        self._memory.keep(flush_name(self._session_id, ref), body)
        self._own[ref.sequence] = (ordinal, ref)
        self.own_bytes += ref.size_bytes
        return ordinal

    def keep(self, session_id: int, ref: FlushRef, body: bytes) -> None:
        """Another session's flush was read whole: its readers find it in memory, while there is room."""
        self.ordinal_of(session_id, ref)
        self._memory.keep(flush_name(session_id, ref), body)

    def ordinal_of(self, session_id: int, ref: FlushRef) -> int:
        """Of a flush of any session."""
        known = self._ordinals.get((session_id, ref.sequence))
        if known is not None:
            return known
        self._next_ordinal += 1
        ordinal = self._ordinals[session_id, ref.sequence] = self._next_ordinal
        self._places[ordinal] = (session_id, ref)
        name = flush_name(session_id, ref)
        self._memory.bodies.hold(name)
        self.by_ordinal[ordinal] = SharedFile(FlushFile(self._cache, self._memory.bodies, name))
        return ordinal

    def due_ordinals(self, kept_bytes: int, kept_flushes: int) -> set[int]:
        """What should be written behind so that at most so much of this session's log is retained."""
        bytes_, flushes, due = self.own_bytes, len(self._own), set()
        for ordinal, ref in self._own.values():
            if bytes_ <= kept_bytes and flushes <= kept_flushes:
                break
            due.add(ordinal)
            bytes_ -= ref.size_bytes
            flushes -= 1
        return due

    def windows(self, due: Set[int], window_bytes: int) -> Iterator[set[int]]:
        """Flushes in the order in which they were committed, as many at a time as a cache of that size can hold."""
        window: set[int] = set()
        size_bytes = 0
        for ordinal in sorted(due & self._places.keys(), key=self._places.__getitem__):
            flush_bytes = self._places[ordinal][1].size_bytes
            if window and size_bytes + flush_bytes > window_bytes:
                yield window
                window, size_bytes = set(), 0
            window.add(ordinal)
            size_bytes += flush_bytes
        if window:
            yield window

    def own_ordinals(self) -> set[int]:
        return {ordinal for ordinal, _ in self._own.values()}

    def own_ordinals_through(self, sequence: int) -> set[int]:
        """Of the flushes up to that one."""
        return {ordinal for number, (ordinal, _) in self._own.items() if number <= sequence}

    def first_needed(self, logs: Iterable[LogFiles], next_sequence: int) -> int:
        """The first sequence of this session's log that a log has an extent in; `next_sequence` if none has."""
        needed = used_ordinals(logs)
        for sequence, (ordinal, _) in self._own.items():
            if ordinal in needed:
                return sequence
        return next_sequence

    async def release_own(self, below: int) -> Sequence[str]:
        """Forgets this session's flushes below a sequence, when their readers are done. Returns their names."""
        released = []
        for sequence in [sequence for sequence in self._own if sequence < below]:
            _, ref = self._own.pop(sequence)
            self.own_bytes -= ref.size_bytes
            released.append(self._take_out((self._session_id, sequence)))
        return await self._closed(released)

    async def forget_unused(self, logs: Iterable[LogFiles]) -> None:
        """Lets go of other sessions' flushes that no log has extents in, and had none when this was last called: a log
        that is not followed any more may be opened in a moment. The objects are not ours to delete.
        """
        needed = used_ordinals(logs)
        unused = {
            key
            for key, ordinal in self._ordinals.items()
            if ordinal not in needed and (key[0] != self._session_id or key[1] not in self._own)
        }
        going, self._unused = unused & self._unused, unused - self._unused
        # All at once: while one is waited for, a log that is opened may come to need another.
        await self._closed([self._take_out(key) for key in going])

    def _take_out(self, key: tuple[int, int]) -> SharedFile:
        ordinal = self._ordinals.pop(key)
        shared = self.by_ordinal.pop(ordinal)
        del self._places[ordinal]
        self._memory.bodies.let_go(shared.file.name)
        return shared

    async def _closed(self, taken_out: Sequence[SharedFile]) -> list[str]:
        """Waits for the readers of files that nothing leads to any more. Returns their names."""
        for shared in taken_out:
            await shared.unpinned()
            self._cache.forget(shared.file.name)
        return [shared.file.name for shared in taken_out]


def used_ordinals(logs: Iterable[LogFiles]) -> set[int]:
    """The ordinals that logs have extents in."""
    used: set[int] = set()
    for files in logs:
        if len(files.wal):
            used.update(files.wal.files)
    return used
