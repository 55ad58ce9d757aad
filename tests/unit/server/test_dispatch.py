"""Every served API: it has a handler, its errors have a place, nothing a handler does can harm the connection."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bytemq.broker import dispatch
from bytemq.broker.dispatch import HANDLERS, Handler, to_error_code
from bytemq.broker.error_responses import error_response
from bytemq.errors import Corrupt, Fenced, Full, Invalid, NotFound, Unavailable
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import advertised
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from bytemq.protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from bytemq.protocol.schema import Struct
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.metrics import Histogram
from tests.unit.server.harness import make_cluster, serving

ANSWER_BY_THEMSELVES = (ApiKey.PRODUCE, ApiKey.FETCH)


def loaded(key: ApiKey) -> Handler:
    handler = Handler(key, HANDLERS[key], Histogram(), SystemClock(), lambda name, error: None)
    handler.load()
    return handler


def example(of: type[Struct], depth: int = 0) -> Struct:
    """A struct whose lists have one element each."""
    struct = of()
    for name, field in of.FIELDS.items():
        if field.is_array and isinstance(field.type, str):
            setattr(struct, name, [{"string": "x", "uuid": b"i" * 16}.get(field.type, 1)])
        elif field.is_array:
            setattr(struct, name, [example(field.type, depth + 1)])  # type: ignore[arg-type]
    return struct


def error_codes(struct: Any) -> list[int]:
    found = []
    for name, field in struct.FIELDS.items():
        value = getattr(struct, name)
        if name.endswith("error_code"):
            found.append(value)
        elif field.is_array and not isinstance(field.type, str) and value:
            found += [code for element in value for code in error_codes(element)]
    return found


@pytest.mark.parametrize("key", list(HANDLERS), ids=lambda key: key.name)
def test_handlers__can_be_loaded(key: ApiKey) -> None:
    handler = loaded(key)
    assert handler.loaded
    assert (handler._begin is not None) == (key in ANSWER_BY_THEMSELVES)


@pytest.mark.parametrize("key", [key for key in HANDLERS if key not in ANSWER_BY_THEMSELVES], ids=lambda key: key.name)
def test_handlers__have_a_place_for_an_error_in_every_version(key: ApiKey) -> None:
    handler = loaded(key)
    for version in range(handler.versions.lowest, handler.versions.highest + 1):
        request = decode(handler.request_class, version, memoryview(bytes(encode(_fitting(handler, version), version))))
        build = getattr(handler._module, "error_response", None)
        if build is not None:
            response = build(request, version, ErrorCode.CLUSTER_AUTHORIZATION_FAILED, None)
        else:
            response = error_response(handler.response_class, request, version, ErrorCode.CLUSTER_AUTHORIZATION_FAILED)
        answered = decode(handler.response_class, version, memoryview(bytes(encode(response, version))))
        assert set(error_codes(answered)) >= {ErrorCode.CLUSTER_AUTHORIZATION_FAILED}


def _fitting(handler: Handler, version: int) -> Any:
    """An example without what the version cannot say."""
    request: Any = example(handler.request_class)
    _strip(request, version)
    return request


def _strip(struct: Any, version: int) -> None:
    from bytemq.protocol.schema import parse_versions

    for name, field in struct.FIELDS.items():
        if not parse_versions(field.versions).includes(version):
            setattr(struct, name, field.make_default())
        elif field.is_array and not isinstance(field.type, str):
            for element in getattr(struct, name) or ():
                _strip(element, version)


def test_readme__says_how_many_apis_are_advertised() -> None:
    readme = Path(dispatch.__file__).parents[2] / "README.md"
    assert f"| {len(list(advertised(HANDLERS)))} APIs at every version" in readme.read_text()


def test_error_response__mirrors_topics_and_partitions() -> None:
    partitions = [OffsetForLeaderPartition(partition=index) for index in (4, 2)]
    request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="t", partitions=partitions)])
    response = error_response(OffsetForLeaderEpochResponse, request, 4, ErrorCode.NOT_LEADER_OR_FOLLOWER)
    (topic,) = response.topics
    assert topic.topic == "t"
    assert [(one.partition, one.error_code) for one in topic.partitions] == [(4, 6), (2, 6)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KafkaError(ErrorCode.INVALID_GROUP_ID), ErrorCode.INVALID_GROUP_ID),
        (Unavailable("x"), ErrorCode.REQUEST_TIMED_OUT),
        (Full("x"), ErrorCode.REQUEST_TIMED_OUT),
        (Fenced("x"), ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (Corrupt("x"), ErrorCode.KAFKA_STORAGE_ERROR),
        (Invalid("x"), ErrorCode.INVALID_REQUEST),
        (NotFound("x"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (ZeroDivisionError(), ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
def test_to_error_code__knows_every_kind_of_failure(error: Exception, code: ErrorCode) -> None:
    assert to_error_code(error)[0] is code


@pytest.mark.parametrize("waits", [False, True])
async def test_dispatch__a_bug_in_a_handler_is_an_error_for_the_client_and_a_line_in_the_log(
    waits: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module: Any = ModuleType("broken")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async def fail_later(*_: object) -> None:
        fail()

    module.handle = fail_later if waits else fail
    real = import_module
    monkeypatch.setattr(
        dispatch, "import_module", lambda name: module if name.endswith("handlers.describe_cluster") else real(name)
    )
    async with serving(make_cluster()) as running:
        client = await running.connect()
        for _ in range(3):
            response = await client.ask(DescribeClusterRequest(), 0, DescribeClusterResponse)
            assert response.error_code == ErrorCode.UNKNOWN_SERVER_ERROR
            assert "bug" not in (response.error_message or "")
    assert "request failed unexpectedly" in caplog.text


async def test_dispatch__warming_loads_everything() -> None:
    async with serving(make_cluster()) as running:
        await running.server.dispatcher.warm()
        assert all(handler.loaded for handler in running.server.dispatcher._handlers.values())
