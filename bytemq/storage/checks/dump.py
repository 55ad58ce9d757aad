"""What is in one file of the storage, readable: for support.

Owns: the text. Must not: write, need other files, or fail on damaged ones: it says where the damage is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bytemq.errors import Corrupt, Invalid
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.storage.manifests.manifest_codec import decode_snapshot
from bytemq.storage.segments.batch_walk import batch_at, crc_matches
from bytemq.storage.segments.segment_format import decode_footer
from bytemq.storage.wal.format import MAGIC as FLUSH_MAGIC
from bytemq.storage.wal.format import check_head, decode_entries, decode_header, decode_shares, payload_errors
from bytemq.storage.wal.wal_index import MAGIC as INDEX_MAGIC
from bytemq.storage.wal.wal_index import decode_index
from bytemq.types import format_topic_id


def dump(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines that describe the file `path`, found out by its name and content. Raises Invalid for other files."""
    file = Path(path)
    view = memoryview(file.read_bytes())
    if file.suffix == ".snapshot":
        return _dump_snapshot(bytes(view))
    if file.suffix == ".index" or view[:4] == INDEX_MAGIC:
        return _dump_index(file.name, bytes(view))
    if view[:4] == FLUSH_MAGIC:
        return _dump_flushes(view)
    if file.suffix != ".log":
        raise Invalid(f"{file} is no file of the log: those end in .log, .index or .snapshot")
    if not any(view[:64]):
        return iter(["empty: no flush was written to this file yet"])
    return _dump_segment(view)


def _dump_flushes(view: memoryview) -> Iterator[str]:
    position = 0
    before: tuple[int, int] | None = None
    while position < len(view):
        try:
            header = decode_header(view, position)
            head = view[position : position + header.head_bytes]
            check_head(head, header)
        except Corrupt as error:
            yield f"position {position}: {error}; the rest is unused or damaged"
            return
        if before is not None and (header.session_id, header.sequence) != (before[0], before[1] + 1):
            yield f"position {position}: what follows is of an earlier use of the file"
            return
        before = (header.session_id, header.sequence)
        yield (
            f"position {position}: flush {header.sequence} of session {header.session_id}, {header.total_bytes} bytes, "
            f"{header.share_count} shares, durable through {header.durable_through}"
        )
        payload = view[position + header.head_bytes : position + header.head_bytes + header.payload_bytes]
        for share in decode_shares(head, header):
            topic, index = share.partition
            problem, place = None, ""
            if share.reference:
                place = f" in {share.reference} at position {share.position}"
            else:
                problem = payload_errors(share, payload[share.position : share.position + share.size_bytes])
            yield (
                f"  {format_topic_id(topic)}-{index}: offsets {share.base_offset}..{share.next_offset - 1}, "
                f"leader epoch {share.leader_epoch}, {share.size_bytes} bytes{place}{_damage(problem)}"
            )
            for batch in decode_entries(share.entries):
                yield f"    {_batch_line(batch)}"
        position += header.total_bytes


def _dump_segment(view: memoryview) -> Iterator[str]:
    position = 0
    while (batch := batch_at(view, position)) is not None:
        header = parse_header(view, position)
        problem = None if crc_matches(view, batch) else "the checksum does not match"
        yield f"position {position}: {_batch_line(header)}{_damage(problem)}"
        position += batch.size_bytes
    if position == len(view):
        yield "no footer: the segment is open"
        return
    try:
        index, aborted = decode_footer(view[position:])
    except Corrupt as error:
        yield f"position {position}: neither a record batch nor a footer: {error}"
        return
    yield f"position {position}: footer, next offset {index.next_offset}, {len(index)} chunks"
    for number in range(len(index)):
        chunk = index.chunk(number)
        yield (
            f"  offsets {chunk.base_offset}..{chunk.next_offset - 1} at position {chunk.position}, "
            f"{chunk.size_bytes} bytes, newest timestamp {chunk.max_timestamp}"
        )
    for producer_id, first, last, _ in aborted:
        yield f"  aborted: producer {producer_id}, offsets {first}..{last}"


def _dump_index(name: str, data: bytes) -> Iterator[str]:
    session, _, number = name.removesuffix(".index").partition("-")
    try:
        for flush in decode_index(data, int(session, 16), int(number, 16)):
            header = flush.header
            yield f"flush {header.sequence} at position {flush.position}, {header.share_count} shares"
    except (Corrupt, ValueError) as error:
        yield f"damaged: {error}"


def _dump_snapshot(data: bytes) -> Iterator[str]:
    try:
        snapshot = decode_snapshot(data)
    except Corrupt as error:
        yield f"damaged: {error}"
        return
    yield f"state before offset {snapshot.offset}; leader epochs {list(snapshot.leader_epochs)}"
    for producer in snapshot.producers:
        yield (
            f"producer {producer.producer_id}, epoch {producer.producer_epoch}, {len(producer.batches)} batches, "
            f"open transaction from {producer.open_txn_first_offset}"
        )


def _batch_line(batch: RecordBatch) -> str:
    line = (
        f"offsets {batch.base_offset}..{batch.last_offset}, {batch.record_count} records, {batch.size_bytes} bytes, "
        f"leader epoch {batch.leader_epoch}, newest timestamp {batch.max_timestamp}"
    )
    if batch.has_producer:
        line += f", producer {batch.producer_id}/{batch.producer_epoch} from sequence {batch.base_sequence}"
    line += (", transactional" if batch.is_transactional else "") + (", control" if batch.is_control else "")
    horizon_ms = batch.delete_horizon_ms
    return line if horizon_ms is None else f"{line}, tombstones until {horizon_ms}"


def _damage(problem: str | None) -> str:
    return f"  DAMAGED: {problem}" if problem else ""
