"""What groups and transactional ids keep in internal topics, told apart by name, and flipped bits in it."""

from __future__ import annotations

from pathlib import Path

from kafka.protocol.consumer import OffsetCommitRequest, OffsetFetchRequest
from kafka.protocol.producer import InitProducerIdRequest

from tests.interop.differential import build
from tests.interop.wire import Wire


def commit(wire: Wire, group: str, offset: int) -> int:
    """The error code. What is stored has the words of `commit_of`."""
    row = {"partition_index": 0, "committed_offset": offset, "committed_leader_epoch": -1}
    topic = {"name": "t", "partitions": [{**row, "committed_metadata": commit_of(group, offset).decode()}]}
    fields = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None}
    fields["topics"] = [topic]
    return int(wire.call(build(OffsetCommitRequest, 8, fields)).topics[0].partitions[0].error_code)


def commit_of(group: str, offset: int) -> bytes:
    return f"{group} at {offset}.".encode()


def committed(wire: Wire, group: str) -> tuple[int, int]:
    """(error code, offset)."""
    fields = {"group_id": group, "topics": [{"name": "t", "partition_indexes": [0]}], "require_stable": False}
    answer = wire.call(build(OffsetFetchRequest, 7, fields))
    return answer.error_code, answer.topics[0].partitions[0].committed_offset if answer.topics else -1


def initialise(wire: Wire, transactional_id: str) -> tuple[int, int]:
    """(error code, producer id)."""
    fields = {"transactional_id": transactional_id, "transaction_timeout_ms": 1_000}
    answer = wire.call(build(InitProducerIdRequest, 4, {**fields, "producer_id": -1, "producer_epoch": -1}))
    return answer.error_code, answer.producer_id


def flip(folder: Path, text: bytes) -> None:
    """One bit of the last that was stored with `text`, in each file that has it: there may be a copy."""
    found = False
    for path in (each for each in folder.rglob("*") if each.is_file() and "meta" not in each.name):
        try:
            data = bytearray(path.read_bytes())
        except FileNotFoundError:  # deleted meanwhile
            continue
        position = data.rfind(text)
        if position >= 0:
            data[position] ^= 0x01
            path.write_bytes(data)
            found = True
    assert found, f"{text!r} is nowhere in {folder}"
