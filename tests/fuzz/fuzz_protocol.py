"""Fuzz targets of the wire protocol.

`request_frame` takes its input as a client would send it; `message` reads any message, responses and records included,
its first two bytes naming the class and the version. Both fail on anything but MalformedMessage, on a message that does
not come back the same, and wherever the hand-written codecs and the generated ones disagree.
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.protocol import messages
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.fetch import decode_fetch
from bytemq.protocol.framing import parse_request_header
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.produce import decode_produce
from bytemq.protocol.schema import Message
from tests.fuzz import runner
from tests.unit.protocol import samples

CASES = list(samples.cases())
MAX_ELEMENTS = 10_000

_BY_HAND: dict[int, Callable[[int, memoryview], object]] = {ApiKey.PRODUCE: decode_produce, ApiKey.FETCH: decode_fetch}


def request_frame(data: bytes) -> None:
    try:
        header = parse_request_header(memoryview(data))
    except MalformedMessage:
        return
    versions = API_VERSIONS.get(header.api_key)
    if versions is None or not versions.includes(header.api_version):
        return
    well_formed = _read(messages.request_class(ApiKey(header.api_key)), header.api_version, header.body)
    by_hand = _BY_HAND.get(header.api_key)
    if by_hand is not None:
        try:
            by_hand(header.api_version, header.body)
        except MalformedMessage:
            assert not well_formed, "refused by hand only"
        else:
            assert well_formed, "accepted by hand only"


def message(data: bytes) -> None:
    if len(data) >= 2:
        cls, version = CASES[int.from_bytes(data[:2], "big") % len(CASES)]
        _read(cls, version, memoryview(data)[2:])


def _read(cls: type[Message], version: int, body: memoryview) -> bool:
    """Whether it is a message. Compares bytes and not messages, for NaN does not equal itself."""
    try:
        decoded = decode(cls, version, body, max_elements=MAX_ELEMENTS)
    except MalformedMessage:
        return False
    written = encode(decoded, version)
    assert encode(decode(cls, version, written), version) == written
    return True


def request_frames() -> list[bytes]:
    frames = []
    for key, versions in API_VERSIONS.items():
        for version in range(versions.lowest, versions.highest + 1):
            header = key.to_bytes(2, "big") + version.to_bytes(2, "big") + b"\0\0\0\1" + b"\0\1c"
            tags = b"\0" if versions.is_flexible(version) else b""
            body = encode(samples.full(messages.request_class(ApiKey(key)), version), version)
            frames.append(header + tags + body)
    return frames


def all_messages() -> list[bytes]:
    return [
        index.to_bytes(2, "big") + bytes(encode(samples.full(cls, version), version))
        for index, (cls, version) in enumerate(CASES)
    ]


def both(data: bytes) -> None:
    """One target of the two, for the command line: the first byte chooses."""
    (message if data[:1] == b"m" else request_frame)(data[1:])


def seeds() -> list[bytes]:
    return [b"r" + frame for frame in request_frames()] + [b"m" + data for data in all_messages()]


if __name__ == "__main__":
    runner.main("fuzz_protocol", both, seeds())
