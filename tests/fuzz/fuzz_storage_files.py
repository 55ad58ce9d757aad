"""Fuzz target of the storage's files: whatever is in them, reading raises nothing but Corrupt and ends.

The first byte of an input chooses what the rest is: a write-ahead-log file that recovery walks, its index, a segment
with its footer, a manifest, a snapshot, a tail record. Every file is dumped, too.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path

from bytemq.errors import Corrupt
from bytemq.storage.checks.dump import dump
from bytemq.storage.manifests.manifest import Manifest, PartitionSnapshot, ProducerSnapshot, SegmentInfo
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    decode_snapshot,
    encode_manifest,
    encode_snapshot,
)
from bytemq.storage.segments.segment_files import load_index
from bytemq.storage.segments.segment_format import encode_footer
from bytemq.storage.stores.interface import AppendFile
from bytemq.storage.wal.extents import Chunk, SparseIndex
from bytemq.storage.wal.format import Share, encode_head, shares_to_write
from bytemq.storage.wal.heads import ROW
from bytemq.storage.wal.recovery import Bytes, SessionRecovery
from bytemq.storage.wal.wal_files import WalFile
from bytemq.storage.wal.wal_index import (
    TailRecord,
    decode_index,
    decode_tail,
    encode_index,
    encode_tail,
    file_name,
)
from bytemq.types import PartitionId
from tests.fuzz import runner
from tests.support.power_cut_store import Power, PowerCutStore
from tests.unit.storage.bench import batch_at, pid


class _Taken:
    """Implements `recovery.Taking`."""

    def __init__(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes

    def take_rows(self, file: WalFile, partition: PartitionId, rows: Bytes, entries: Bytes) -> None:
        for *_, position, size_bytes, _, entries_bytes in ROW.iter_unpack(rows):
            assert position + size_bytes <= self._file_bytes
            assert entries_bytes <= len(entries)

    def take_share(self, file: WalFile, payload_position: int, share: Share, bulk: AppendFile | None) -> None:
        assert bulk is None, "there is no such file"
        assert share.reference


def _recover(data: bytes) -> None:
    async def run() -> None:
        store = PowerCutStore(Power(1))
        await store.create(file_name(1, 0), [data])

        await SessionRecovery(store, TailRecord(1, 0), lambda: 1, lambda _: True, _Taken(len(data))).run()

    asyncio.run(run())
    _dump("wal.log", data)


def _open_segment(data: bytes) -> None:
    async def run() -> None:
        store = PowerCutStore(Power(1))
        await store.create("segment", [data])
        for sealed in (False, True):
            info = SegmentInfo(0, 1, min(len(data), SEGMENT_BYTES), 1000, 0, "segment", sealed)
            if not info.size_bytes:
                continue
            index = await load_index(await store.open_read("segment"), info, 300)
            assert sum(index.chunk(number).size_bytes for number in range(len(index))) == info.size_bytes

    asyncio.run(run())
    _dump("segment.log", data)


def _dump(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for _ in dump(path):
            pass


def _index(data: bytes) -> None:
    _dump("0000000000000001-00000000.index", data)
    list(decode_index(data, 1, 0))


def _snapshot(data: bytes) -> None:
    _dump("1.snapshot", data)
    decode_snapshot(data)


def _manifest(data: bytes) -> None:
    decode_manifest(data, "topics/x/0/")


_KINDS = (_recover, _index, _open_segment, _manifest, _snapshot, decode_tail)


def storage_file(data: bytes) -> None:
    if data:
        try:
            _KINDS[data[0] % len(_KINDS)](data[1:])
        except Corrupt:
            return


def seeds() -> list[bytes]:
    batches = [batch_at(0, bytes(50)), batch_at(1, b"value", producer_id=3)]
    payload = b"".join(bytes(batch.view) for batch in batches)
    heads, wal, link = [], b"", 0
    for sequence in (1, 2):
        head, link = encode_head(1, sequence, sequence - 1, link, shares_to_write(pid(1), batches, 1000))
        heads.append((len(wal), head))
        wal += head + payload
        wal += bytes(-len(wal) % 8)
    index = SparseIndex()
    index.append(Chunk(0, 2, 0, len(payload), 1000), 7, verified=True)
    snapshot = encode_snapshot(PartitionSnapshot(2, [(0, 0)], [ProducerSnapshot(1, 2, 3, 4, [(1, 2, 3, 4, 5, 6)], 1)]))
    manifest = Manifest(1, 0, (SegmentInfo(0, 1, len(payload), 1000, 0, "topics/x/0/a.log", True),))
    files = [
        wal,
        b"".join(encode_index(1, 0, heads, len(wal))),
        payload + encode_footer(index, []),
        encode_manifest(StoredManifest(manifest, 2, snapshot), "topics/x/0/"),
        snapshot,
        encode_tail(TailRecord(1, 2)),
    ]
    return [bytes([kind]) + data for kind, data in enumerate(files)]


SEGMENT_BYTES = sum(len(batch_at(0, value).view) for value in (bytes(50), b"value"))


if __name__ == "__main__":
    logging.disable()  # damage is what it is fed: what the log says of it would hide the result
    runner.main("fuzz_storage_files", storage_file, seeds())
