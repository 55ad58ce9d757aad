"""The records of `__consumer_offsets`, byte for byte as Apache Kafka 4.4.0's own classes write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.broker.coordinator.group.group_records import generation_record, restore_group
from bytemq.broker.coordinator.group.memory import MembershipMemory
from bytemq.broker.coordinator.group.records import (
    CommittedOffset,
    GroupMetadataRecord,
    OffsetCommitRecord,
    decode,
    fits_a_string,
)
from bytemq.protocol.primitives import MalformedMessage

TOPIC_ID = bytes(range(1, 17))
OFFSET_KEY = "000100066772c3b675700005746f70696300000102"
OFFSET_VALUES = {
    0: "00000000001cbe991a1400056dc3a974610000018bcfe56800",
    1: "00010000001cbe991a1400056dc3a974610000018bcfe568000000018bcfe58f0f",
    2: "00020000001cbe991a1400056dc3a974610000018bcfe56800",
    3: "00030000001cbe991a140000000700056dc3a974610000018bcfe56800",
    4: "00040000001cbe991a1400000007066dc3a974610000018bcfe568000100100102030405060708090a0b0c0d0e0f10",
}
LONG_METADATA = "0004ffffffffffffffffffffffffc901" + "78" * 200 + "000000000000000500"
GROUP_VALUES = [
    "00000008636f6e73756d657200000003000572616e676500036d2d310000000100036d2d31000163000a2f3132372e302e302e31"
    "000027100000000201020000000103",
    "00010008636f6e73756d657200000003000572616e676500036d2d310000000100036d2d31000163000a2f3132372e302e302e31"
    "0000ea60000027100000000201020000000103",
    "00020008636f6e73756d657200000003000572616e676500036d2d310000018bcfe568000000000100036d2d31000163000a2f31"
    "32372e302e302e310000ea60000027100000000201020000000103",
    "00030008636f6e73756d657200000003000572616e676500036d2d310000018bcfe568000000000100036d2d310001690001"
    "63000a2f3132372e302e302e310000ea60000027100000000201020000000103",
    "000409636f6e73756d6572000000030672616e6765046d2d310000018bcfe5680002046d2d31026902630b2f3132372e302e302e31"
    "0000ea600000271003010202030000",
]


def test_offset_commit_key__is_kafkas() -> None:
    record = OffsetCommitRecord("gröup", "topic", 258, None)
    assert record.encode_key().hex() == OFFSET_KEY
    assert decode(bytes.fromhex(OFFSET_KEY), None) == record


@pytest.mark.parametrize("version", OFFSET_VALUES)
def test_offset_commit_value__of_every_version_is_read(version: int) -> None:
    found = CommittedOffset.decode(bytes.fromhex(OFFSET_VALUES[version]))
    assert (found.offset, found.metadata, found.commit_timestamp_ms) == (123_456_789_012, "méta", 1_700_000_000_000)
    assert found.leader_epoch == (7 if version >= 3 else -1)
    assert found.expire_timestamp_ms == (1_700_000_009_999 if version == 1 else -1)
    assert found.topic_id == (TOPIC_ID if version == 4 else bytes(16))


def test_offset_commit_value__is_written_as_kafka_writes_it() -> None:
    plain = CommittedOffset(123_456_789_012, 7, "méta", 1_700_000_000_000, topic_id=TOPIC_ID)
    assert plain.encode().hex() == OFFSET_VALUES[4]
    assert CommittedOffset(-1, -1, "x" * 200, 5).encode().hex() == LONG_METADATA
    expiring = CommittedOffset(123_456_789_012, -1, "méta", 1_700_000_000_000, 1_700_000_009_999)
    assert expiring.encode().hex() == OFFSET_VALUES[1]


@given(
    st.builds(
        CommittedOffset,
        offset=st.integers(-(2**63), 2**63 - 1),
        leader_epoch=st.integers(-1, 2**31 - 1),
        metadata=st.text(max_size=300),
        commit_timestamp_ms=st.integers(0, 2**62),
        expire_timestamp_ms=st.just(-1),
        topic_id=st.sampled_from([bytes(16), TOPIC_ID]),
    )
)
def test_offset_commit_value__comes_back(committed: CommittedOffset) -> None:
    assert CommittedOffset.decode(committed.encode()) == committed


@given(st.binary(max_size=80), st.none() | st.binary(max_size=200))
def test_decode__of_anything_is_a_record_or_malformed(key: bytes, value: bytes | None) -> None:
    try:
        record = decode(key, value)
        if isinstance(record, OffsetCommitRecord) and record.encoded is not None:
            CommittedOffset.decode(record.encoded)
    except MalformedMessage:
        return


@given(st.sampled_from([*OFFSET_VALUES.values(), LONG_METADATA, *GROUP_VALUES]), st.integers(0, 400))
def test_decode__of_cut_values_is_malformed(encoded: str, size: int) -> None:
    whole = bytes.fromhex(encoded)
    cut = whole[: min(size, len(whole) - 1)]
    key = b"\x00\x02\x00\x01g" if encoded in GROUP_VALUES else bytes.fromhex(OFFSET_KEY)
    with pytest.raises(MalformedMessage):
        record = decode(key, cut)
        assert isinstance(record, OffsetCommitRecord) and record.encoded is not None
        CommittedOffset.decode(record.encoded)


@pytest.mark.parametrize("version", range(5))
def test_group_metadata__of_every_version_is_read(version: int) -> None:
    record = decode(b"\x00\x02\x00\x01g", bytes.fromhex(GROUP_VALUES[version]))
    assert isinstance(record, GroupMetadataRecord) and record.metadata is not None
    group = restore_group("g", record.metadata, MembershipMemory())
    assert (group.state.value, group.generation_id, group.protocol_name, group.leader_id) == (
        "Stable",
        3,
        "range",
        "m-1",
    )
    member = group.members["m-1"]
    assert (member.metadata_of("range"), member.assignment, member.session_timeout_ms) == (b"\x01\x02", b"\x03", 10_000)
    assert member.rebalance_timeout_ms == (60_000 if version >= 1 else 10_000)


def test_group_metadata__is_written_as_kafka_writes_it() -> None:
    record = decode(b"\x00\x02\x00\x01g", bytes.fromhex(GROUP_VALUES[3]))
    assert isinstance(record, GroupMetadataRecord) and record.metadata is not None
    group = restore_group("g", record.metadata, MembershipMemory())
    written = generation_record(group, {"m-1": b"\x03"})
    assert written.encode_key().hex() == "0002000167"
    encoded = written.encode_value()
    assert encoded is not None and encoded.hex() == GROUP_VALUES[3]


def test_decode__of_records_of_other_kinds_is_none() -> None:
    assert decode(b"\x00\x0b\x00\x01g", b"\x00\x00") is None


def test_fits_a_string__counts_bytes() -> None:
    assert fits_a_string("x" * 32_767)
    assert not fits_a_string("x" * 32_768)
    assert not fits_a_string("日" * 11_000)
    assert fits_a_string("日" * 10_922)
