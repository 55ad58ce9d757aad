"""Logs of every shape as Hypothesis draws them, and what of a log must never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import (
    ATTRIBUTES_POSITION,
    HEADER_BYTES,
    RecordBatch,
    parse_header,
    place,
    split_batches,
)
from bytemq.protocol.records.builder import Record, assemble, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.protocol.records.reader import iter_records

KEYS = st.none() | st.binary(max_size=8)
VALUES = st.none() | st.binary(max_size=40) | st.integers(1, 3000).map(lambda size: b"x" * size)
HEADERS = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.none() | st.binary(max_size=6)),
    max_size=3,
)
TIMESTAMPS = st.integers(1_600_000_000_000, 1_800_000_000_000) | st.integers(-(1 << 62), 1 << 62) | st.just(-1)


class Log(NamedTuple):
    batches: list[bytes]
    next_offset: int
    aborted: list[tuple[int, int, int]]


@st.composite
def logs(draw: st.DrawFn, max_batches: int = 12) -> Log:
    """Batches of producers with and without ids, transactions that commit and abort, markers between them, gaps as
    compaction leaves them, batches that nobody can decode.
    """
    batches: list[bytes] = []
    aborted: list[tuple[int, int, int]] = []
    open_since: dict[int, int] = {}
    offset = draw(st.integers(0, 3)) * 1000
    for _ in range(draw(st.integers(1, max_batches))):
        producer = draw(st.sampled_from([-1, 1, 2, 3]))
        transactional = producer == 3 or (producer == 2 and draw(st.booleans()))
        if producer in open_since and draw(st.booleans()):
            commits = draw(st.booleans())
            batches.append(marker(commits, offset, producer))
            if not commits:
                aborted.append((producer, open_since[producer], offset))
            del open_since[producer]
            offset += 1
            continue
        if producer in open_since:
            transactional = True
        records = draw(st.lists(st.builds(Record, KEYS, VALUES, HEADERS, TIMESTAMPS), min_size=1, max_size=5))
        at = offset
        placed = []
        for record in records:
            placed.append(record._replace(offset=at))
            at += 1 + draw(st.sampled_from([0, 0, 0, 3]))
        built = build_batch(
            placed,
            base_offset=offset,
            timestamp_ms=draw(TIMESTAMPS),
            compression=draw(st.integers(0, 4)),
            log_append_time=draw(st.booleans()),
            leader_epoch=draw(st.integers(0, 2)),
            producer_id=producer,
            producer_epoch=-1 if producer < 0 else draw(st.integers(0, 1)),
            base_sequence=-1 if producer < 0 else draw(st.integers(0, 5) | st.just((1 << 31) - 2)),
            transactional=transactional,
            last_offset=at - 1,
        )
        if draw(st.integers(0, 15)) == 0:
            built = damaged_inside(built)
        if transactional:
            open_since.setdefault(producer, offset)
        batches.append(bytes(built))
        offset = at + draw(st.sampled_from([0, 0, 2]))
    for producer, first in open_since.items():
        aborted.append((producer, first, offset))
        batches.append(marker(False, offset, producer))
        offset += 1
    return Log(batches, offset, aborted)


def marker(commits: bool, offset: int, producer: int) -> bytes:
    built = end_transaction_batch(
        EndTransactionMarker(commits, 1), producer_id=producer, producer_epoch=0, timestamp_ms=1_700_000_000_000
    )
    place(parse_header(memoryview(built)), offset, 2)
    return bytes(built)


def damaged_inside(built: bytearray) -> bytearray:
    """A batch whose header and CRC are right and whose records are not."""
    parsed = parse_header(memoryview(built))
    rubbish = b"\xff" * len(parsed.records)
    return assemble(parsed.base_offset, parsed.leader_epoch, bytes(built[ATTRIBUTES_POSITION:HEADER_BYTES]), rubbish)


def identities(batches: Iterable[RecordBatch]) -> list[tuple[object, ...]]:
    """Everything that a consumer or a broker may see of each record, in order."""
    found: list[tuple[object, ...]] = []
    for batch in batches:
        of_batch = (
            batch.timestamp_type,
            batch.producer_id,
            batch.producer_epoch,
            batch.is_transactional,
            batch.is_control,
            batch.leader_epoch,
            batch.delete_horizon_ms,
        )
        try:
            records = list(iter_records(batch))
        except (Corrupt, KafkaError):
            found.append((*of_batch, bytes(batch.view)))
            continue
        for record in records:
            delta = record.offset - batch.base_offset
            sequence = batch.base_sequence if batch.base_sequence < 0 else (batch.base_sequence + delta) % (1 << 31)
            found.append(
                (*of_batch, sequence, record.offset, record.timestamp_ms, record.key, record.value, *record.headers)
            )
    return found


def fingerprint(batches: Iterable[RecordBatch]) -> str:
    digest = hashlib.sha256()
    for identity in identities(batches):
        digest.update(repr(identity).encode())
    return digest.hexdigest()


def parsed(data: bytes) -> list[RecordBatch]:
    return split_batches(memoryview(data))
