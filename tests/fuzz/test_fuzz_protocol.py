"""The fuzz targets of the protocol, for a second each and always with the same inputs."""

from __future__ import annotations

import pytest

from bytemq.protocol.primitives import MalformedMessage
from tests.fuzz import fuzz_protocol, runner


def test_request_frames__never_fail_otherwise_than_malformed() -> None:
    assert runner.run(fuzz_protocol.request_frame, fuzz_protocol.request_frames(), seed=1, rounds=12_000) == 12_000


def test_messages__never_fail_otherwise_than_malformed() -> None:
    assert runner.run(fuzz_protocol.message, fuzz_protocol.all_messages(), seed=2, rounds=12_000) == 12_000


def test_runner__reports_the_input_that_failed() -> None:
    def target(data: bytes) -> None:
        if b"\xff" in data:
            raise MalformedMessage("on purpose")

    with pytest.raises(runner.FuzzFailure) as failure:
        runner.run(target, [b"seed"], seed=3, rounds=1000)

    assert b"\xff" in failure.value.data
