"""What is in one file of the storage, readable: for support.

Owns: the text, and the same as facts for programs. Must not: write, need other files, or fail on damaged ones: it says
where the damage is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


class Line(NamedTuple):
    """One thing in a file. `facts` say what kind of thing it is, `what`, and what is known of it."""

    text: str
    facts: dict[str, Any]


def _line(text: str, what: str, **facts: object) -> Line:
    return Line(text, {"what": what, **{name: fact for name, fact in facts.items() if fact is not None}})


def dump(path: str | os.PathLike[str]) -> Iterator[Line]:
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
        return iter([_line("empty: no flush was written to this file yet", "empty")])
    return _dump_segment(view)


def _dump_flushes(view: memoryview) -> Iterator[Line]:
    position = 0
    before: tuple[int, int] | None = None
    while position < len(view):
        try:
            header = decode_header(view, position)
            head = view[position : position + header.head_bytes]
            check_head(head, header)
        except Corrupt as error:
            text = f"position {position}: {error}; the rest is unused or damaged"
            yield _line(text, "rest", position=position, problem=str(error))
            return
        if before is not None and (header.session_id, header.sequence) != (before[0], before[1] + 1):
            text = "what follows is of an earlier use of the file"
            yield _line(f"position {position}: {text}", "rest", position=position, problem=text)
            return
        before = (header.session_id, header.sequence)
        yield _line(
            f"position {position}: flush {header.sequence} of session {header.session_id}, {header.total_bytes} bytes, "
            f"{header.share_count} shares, durable through {header.durable_through}",
            "flush",
            position=position,
            sequence=header.sequence,
            session=header.session_id,
            bytes=header.total_bytes,
            shares=header.share_count,
            durable_through=header.durable_through,
        )
        payload = view[position + header.head_bytes : position + header.head_bytes + header.payload_bytes]
        for share in decode_shares(head, header):
            topic, index = share.partition
            problem, place = None, ""
            if share.reference:
                place = f" in {share.reference} at position {share.position}"
            else:
                problem = payload_errors(share, payload[share.position : share.position + share.size_bytes])
            yield _line(
                f"  {format_topic_id(topic)}-{index}: offsets {share.base_offset}..{share.next_offset - 1}, "
                f"leader epoch {share.leader_epoch}, {share.size_bytes} bytes{place}{_damage(problem)}",
                "share",
                topic_id=format_topic_id(topic),
                partition=index,
                base_offset=share.base_offset,
                last_offset=share.next_offset - 1,
                leader_epoch=share.leader_epoch,
                bytes=share.size_bytes,
                file=share.reference or None,
                problem=problem,
            )
            for batch in decode_entries(share.entries):
                yield _batch("    ", batch)
        position += header.total_bytes


def _dump_segment(view: memoryview) -> Iterator[Line]:
    position = 0
    while (batch := batch_at(view, position)) is not None:
        header = parse_header(view, position)
        problem = None if crc_matches(view, batch) else "the checksum does not match"
        yield _batch(f"position {position}: ", header, position, problem)
        position += batch.size_bytes
    if position == len(view):
        yield _line("no footer: the segment is open", "end", sealed=False)
        return
    try:
        index, aborted = decode_footer(view[position:])
    except Corrupt as error:
        text = f"position {position}: neither a record batch nor a footer: {error}"
        yield _line(text, "rest", position=position, problem=str(error))
        return
    yield _line(
        f"position {position}: footer, next offset {index.next_offset}, {len(index)} chunks",
        "footer",
        position=position,
        next_offset=index.next_offset,
        chunks=len(index),
    )
    for number in range(len(index)):
        chunk = index.chunk(number)
        yield _line(
            f"  offsets {chunk.base_offset}..{chunk.next_offset - 1} at position {chunk.position}, "
            f"{chunk.size_bytes} bytes, newest timestamp {chunk.max_timestamp}",
            "chunk",
            position=chunk.position,
            base_offset=chunk.base_offset,
            last_offset=chunk.next_offset - 1,
            bytes=chunk.size_bytes,
            max_timestamp=chunk.max_timestamp,
        )
    for producer_id, first, last, _ in aborted:
        yield _line(
            f"  aborted: producer {producer_id}, offsets {first}..{last}",
            "aborted",
            producer_id=producer_id,
            first_offset=first,
            last_offset=last,
        )


def _dump_index(name: str, data: bytes) -> Iterator[Line]:
    session, _, number = name.removesuffix(".index").partition("-")
    try:
        for position, head in decode_index(data, int(session, 16), int(number, 16)):
            header = decode_header(head)
            yield _line(
                f"flush {header.sequence} at position {position}, {header.share_count} shares",
                "flush",
                position=position,
                sequence=header.sequence,
                shares=header.share_count,
            )
    except (Corrupt, ValueError) as error:
        yield _line(f"damaged: {error}", "rest", problem=str(error))


def _dump_snapshot(data: bytes) -> Iterator[Line]:
    try:
        snapshot = decode_snapshot(data)
    except Corrupt as error:
        yield _line(f"damaged: {error}", "rest", problem=str(error))
        return
    yield _line(
        f"state before offset {snapshot.offset}; leader epochs {list(snapshot.leader_epochs)}",
        "state",
        offset=snapshot.offset,
        leader_epochs=list(snapshot.leader_epochs),
    )
    for producer in snapshot.producers:
        yield _line(
            f"producer {producer.producer_id}, epoch {producer.producer_epoch}, {len(producer.batches)} batches, "
            f"open transaction from {producer.open_txn_first_offset}",
            "producer",
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            batches=len(producer.batches),
            open_txn_first_offset=producer.open_txn_first_offset,
        )


def _batch(prefix: str, batch: RecordBatch, position: int | None = None, problem: str | None = None) -> Line:
    producer = (batch.producer_id, batch.producer_epoch, batch.base_sequence) if batch.has_producer else (None,) * 3
    return _line(
        f"{prefix}{_batch_text(batch)}{_damage(problem)}",
        "batch",
        position=position,
        base_offset=batch.base_offset,
        last_offset=batch.last_offset,
        records=batch.record_count,
        bytes=batch.size_bytes,
        leader_epoch=batch.leader_epoch,
        max_timestamp=batch.max_timestamp,
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
        transactional=batch.is_transactional,
        control=batch.is_control,
        delete_horizon_ms=batch.delete_horizon_ms,
        problem=problem,
    )


def _batch_text(batch: RecordBatch) -> str:
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
