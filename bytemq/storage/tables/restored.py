"""Units of Parquet files as segments again, for whoever reads the log.

Owns: which units are restored, how long they stay, and reading ahead. Must not: restore one itself: that is a worker's
(`Restorer`), the broker's process never opens a Parquet file.

A restored unit is a file in the local scratch folder in the form of a segment, so it is read as segments are. It may
be lost at any time: then it is restored again. At most `capacity_bytes` are kept, and those in use; the least
recently used one goes first.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from typing import NamedTuple, Protocol

from bytemq.errors import BytemqError, Unavailable
from bytemq.runtime.logging import get_logger
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.segments.segment_files import Segment, open_segment
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.companion import HEADER_BYTES, Unit, decode_companion, index_bytes
from bytemq.storage.tables.table_file import table_file

log = get_logger("storage.restored")

KNOWN_FILES = 4096
"""Files whose units are remembered: about 40 bytes a unit."""


class RestoredFile(NamedTuple):
    """A segment in the scratch store, made by a worker."""

    name: str
    size_bytes: int
    """Of its batches."""


class Restorer(Protocol):
    """Whoever has units restored."""

    @property
    def scratch(self) -> ObjectStore:
        """Where restored units are. Nothing in it need survive."""

    async def restore(self, parquet: str, companion: str, unit: int) -> RestoredFile:
        """Raises NotFound when the file was deleted meanwhile, Corrupt, Unavailable."""


class NoRestorer:
    """For a program that reads no tables."""

    @property
    def scratch(self) -> ObjectStore:
        raise self._refusal()

    async def restore(self, parquet: str, companion: str, unit: int) -> RestoredFile:
        raise self._refusal()

    def _refusal(self) -> Unavailable:
        return Unavailable("Parquet files cannot be read here: install bytemq[tables]")


_Key = tuple[str, int]


class _Restored:
    __slots__ = ("segment", "size_bytes", "was_read")

    def __init__(self, segment: Segment, size_bytes: int) -> None:
        self.segment = segment
        self.size_bytes = size_bytes
        self.was_read = False


class RestoredUnits:
    def __init__(self, store: ObjectStore, restorer: Restorer, capacity_bytes: int, chunk_bytes: int) -> None:
        self._store = store
        self._restorer = restorer
        self._capacity_bytes = capacity_bytes
        self._chunk_bytes = chunk_bytes
        self._units: OrderedDict[str, tuple[Unit, ...]] = OrderedDict()
        self._restored: OrderedDict[_Key, _Restored] = OrderedDict()
        self._restoring: dict[_Key, asyncio.Task[Segment]] = {}
        self.size_bytes = 0

    def peek(self, info: SegmentInfo, offset: int, following: SegmentInfo | None) -> Segment | None:
        """The restored unit that answers for `offset`, if there is one. `following` is the log's next file."""
        units = self._units.get(info.name)
        if units is None:
            return None
        number = _unit_of(units, offset)
        found = self._restored.get((info.name, number))
        if found is None:
            return None
        self._restored.move_to_end((info.name, number))
        if not found.was_read:
            found.was_read = True
            self._read_ahead(info, units, number, following)
        return found.segment

    async def get(self, info: SegmentInfo, offset: int) -> Segment:
        """As `peek`, restoring it. Raises NotFound when the file was deleted meanwhile, Corrupt, Unavailable."""
        units = await self.units(info)
        return await asyncio.shield(self._restoration(info, units, _unit_of(units, offset)))

    async def units(self, info: SegmentInfo) -> tuple[Unit, ...]:
        """The units of a file. Raises as `get`."""
        units = self._units.get(info.name)
        if units is None:
            file = await self._store.open_read(table_file(info).companion)
            try:
                header = await file.read(0, HEADER_BYTES)
                units = tuple(decode_companion(await file.read(0, index_bytes(header))).units)
            finally:
                await file.close()
            self._units[info.name] = units
            if len(self._units) > KNOWN_FILES:
                self._units.popitem(last=False)
        return units

    def opened(self, name: str) -> list[Segment]:
        """The units of a file that are restored at this moment."""
        return [restored.segment for key, restored in self._restored.items() if key[0] == name]

    async def forget(self, name: str) -> None:
        """The file is deleted: its units go when their readers are done."""
        self._units.pop(name, None)
        for key in [key for key in self._restored if key[0] == name]:
            await self._drop(key)

    async def close(self) -> None:
        for task in list(self._restoring.values()):
            task.cancel()
        await asyncio.gather(*self._restoring.values(), return_exceptions=True)
        for key in list(self._restored):
            await self._drop(key)

    def _restoration(self, info: SegmentInfo, units: tuple[Unit, ...], number: int) -> asyncio.Future[Segment]:
        key = (info.name, number)
        found = self._restored.get(key)
        if found is not None:
            ready: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
            ready.set_result(found.segment)
            return ready
        task = self._restoring.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._restore(info, units[number], number))
            self._restoring[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: _Key, task: asyncio.Task[Segment]) -> None:
        self._restoring.pop(key, None)
        if not task.cancelled() and isinstance(task.exception(), BytemqError):
            log.debug("a unit was not restored", file=key[0], unit=key[1], reason=str(task.exception()))

    async def _restore(self, info: SegmentInfo, unit: Unit, number: int) -> Segment:
        made = await self._restorer.restore(info.name, table_file(info).companion, number)
        described = SegmentInfo(
            unit.base_offset,
            unit.next_offset - 1,
            made.size_bytes,
            unit.max_timestamp,
            info.created_ms,
            made.name,
            sealed=True,
            is_cleaned=True,
        )
        try:
            segment = await open_segment(self._restorer.scratch, described, self._chunk_bytes)
        except BaseException:
            await self._restorer.scratch.delete([made.name])
            raise
        self._restored[info.name, number] = _Restored(segment, made.size_bytes)
        self.size_bytes += made.size_bytes
        await self._shrink()
        return segment

    def _read_ahead(
        self, info: SegmentInfo, units: tuple[Unit, ...], number: int, following: SegmentInfo | None
    ) -> None:
        """Whoever read the unit before, too, will want the next one."""
        if number and (info.name, number - 1) not in self._restored:
            return
        if number + 1 < len(units):
            self._restoration(info, units, number + 1)
        elif following is not None and following.name in self._units:
            self._restoration(following, self._units[following.name], 0)

    async def _shrink(self) -> None:
        unused = [key for key, restored in self._restored.items() if not restored.segment.pins]
        newest = next(reversed(self._restored), None)
        for key in unused:
            if self.size_bytes <= self._capacity_bytes or key == newest:
                break
            await self._drop(key)

    async def _drop(self, key: _Key) -> None:
        dropped = self._restored.pop(key, None)
        if dropped is None:
            return
        self.size_bytes -= dropped.size_bytes
        await dropped.segment.unpinned()
        name = dropped.segment.file.name
        await dropped.segment.file.close()
        await self._restorer.scratch.delete([name])


def _unit_of(units: tuple[Unit, ...], offset: int) -> int:
    return max(bisect_right(units, offset, key=lambda unit: unit.base_offset) - 1, 0)
