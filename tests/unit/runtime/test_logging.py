"""Log lines: readable by people and programs, unforgeable by clients."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from bytemq.runtime.logging import LogFormat, LogGate, configure, get_logger, levels, set_level
from tests.support.virtual_time import VirtualClock


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    saved = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in _loggers()]
    yield
    for logger, handlers, level, propagate in saved:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def _loggers() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in ("bytemq", "bytemq.tests", "asyncio")]


def lines(log_format: LogFormat) -> tuple[io.StringIO, list[str]]:
    stream = io.StringIO()
    configure(log_format=log_format, stream=stream)
    log = get_logger("tests")
    log.info("topic created", topic="events", partitions=3, note='two "words"')
    log.warning("closed", reason="line\nbreak " + "x" * 1000)
    log.debug("not shown")
    return stream, stream.getvalue().splitlines()


def test_logfmt__one_line_an_event() -> None:
    _, (first, second) = lines("logfmt")
    assert first.endswith('INFO    tests: topic created topic=events partitions=3 note="two \\"words\\""')
    assert "line\\nbreak" in second
    assert len(second) < 400


def test_json__keeps_numbers() -> None:
    _, (first, second) = lines("json")
    entry = json.loads(first)
    assert (entry["part"], entry["event"], entry["topic"], entry["partitions"]) == (
        "tests",
        "topic created",
        "events",
        3,
    )
    assert json.loads(second)["level"] == "warning"


def test_error__carries_its_traceback() -> None:
    stream, _ = lines("logfmt")
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError as error:
        get_logger("tests").error("failed", error=error)
    assert "ZeroDivisionError: oops" in stream.getvalue()


def test_level__changes_at_run_time_for_all_or_one_part() -> None:
    stream, _ = lines("logfmt")
    set_level("debug", "tests")
    get_logger("tests").debug("now shown")
    assert "now shown" in stream.getvalue()
    assert levels()["tests"] == "debug"
    with pytest.raises(ValueError, match="unknown log level"):
        set_level("loud")


def test_gate__lets_a_burst_pass_and_counts_the_rest() -> None:
    clock = VirtualClock()
    gate = LogGate(clock.monotonic, burst=2, interval_s=10)
    assert [gate.allow("a") for _ in range(5)] == [0, 0, None, None, None]
    assert gate.allow("b") == 0
    clock.advance(11)
    assert gate.allow("a") == 3
    assert gate.allow("a") == 0


def test_gate__is_bounded() -> None:
    gate = LogGate(VirtualClock().monotonic)
    for key in range(5000):
        gate.allow(key)
    assert len(gate._windows) <= 1024
