"""One conversation, two servers: runs a case against a server and writes down what was answered, in a comparable form.

A case is a function that talks to a `Subject`. What a server may choose freely (ids, session numbers, member ids,
the time of day, addresses) is replaced by names in the order of appearance; everything else must be equal.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from kafka.protocol.admin import CreateTopicsRequest, DescribeGroupsRequest
from kafka.protocol.consumer import ListOffsetsRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from tests.interop.batches import CONTROL, describe
from tests.interop.routes import Routes
from tests.interop.wire import Wire, decode_response

Answer = Any
Case = Callable[["Subject"], None]

DROPPED = {
    "throttle_time_ms",
    "host",
    "port",
    "cluster_id",
    "error_message",
    "batch_index_error_message",
    "broker_epoch",
    "heartbeat_interval_ms",  # a server that spreads the heartbeats of its members says it to each
}
NAMED = {"session_id", "member_id", "leader"}
UNORDERED = {"partitions"}
NOW_SLACK_MS = 3_600_000
COORDINATOR_S = 60.0
OWN = "own-"  # what begins so is a name that a case chose itself
SILENT_S = 30.0
LONG_S = 60.0
ABSENT = "<absent>"
SHOWN_CHARACTERS = 40
SHOWN_BYTES = 1_000
MARKER_EPOCH = slice(-5, -1)
"""Where in a control batch the coordinator's epoch is: behind it is only that there are no headers."""
FIRST_OWN_PRODUCER_ID = 1_000_000  # cases use ids from here on; below are the servers' own

registry: dict[str, Case] = {}


hasty: set[str] = set()
"""Cases that need a server whose background work does not wait, or that take long."""


def case(function: Case) -> Case:
    """Registers a case under the function's name."""
    assert function.__name__ not in registry
    registry[function.__name__] = function
    return function


def hasty_case(function: Case) -> Case:
    """The same for a server that cleans, expires and assigns within a second."""
    hasty.add(function.__name__)
    return case(function)


def build(request_class: Any, version: int, fields: dict[str, Any]) -> Any:
    """A kafka-python request from plain dictionaries, nested structures included."""
    return request_class[version](**{name: _build_field(request_class, name, value) for name, value in fields.items()})


def _build_field(container: Any, name: str, value: Any) -> Any:
    field = container._struct.fields[name]
    if field.is_struct_array() and value is not None:
        return [_build_struct(field.data_class, item) for item in value]
    if field.is_struct() and value is not None:
        return _build_struct(field.data_class, value)
    return value


def _build_struct(data_class: Any, fields: dict[str, Any]) -> Any:
    return data_class(**{name: _build_field(data_class, name, value) for name, value in fields.items()})


class Waiting:
    """A request that was sent beside the others."""

    def __init__(self, subject: Subject, wire: Wire, api_key: int, version: int) -> None:
        self._subject, self._wire, self._api_key, self._version = subject, wire, api_key, version

    def answer(self, label: str) -> Any:
        """Waits for the answer and writes it down."""
        try:
            response = decode_response(self._api_key, self._version, self._wire.receive_frame())
        finally:
            self._wire.close()
        self._subject.note(label, response)
        return response


class Subject:
    """A server under examination. Answers are kept under labels, in `answers`."""

    def __init__(self, address: tuple[str, int], prefix: str) -> None:
        self.answers: dict[str, Answer] = {}
        self._address = address
        self._routes = Routes(address)
        self._prefix = prefix
        self._wires: dict[tuple[str, int], Wire] = {}
        self._names: dict[tuple[str, object], str] = {}
        self._topics = 0

    def close(self) -> None:
        while self._wires:
            self._wires.popitem()[1].close()

    def new_name(self, kind: str = "topic") -> str:
        """The same on every server, used once per run."""
        self._topics += 1
        return f"{self._prefix}-{kind}{self._topics}"

    def topic(self, partitions: int = 1, **configs: str) -> str:
        return self.topic_named(self.new_name(), partitions, **configs)

    def topic_named(self, name: str, partitions: int = 1, **configs: str) -> str:
        entries = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
        topic = {"name": name, "num_partitions": partitions, "replication_factor": 1}
        fields = {"topics": [{**topic, "assignments": [], "configs": entries}], "timeout_ms": 60_000}
        [created] = self.quiet(CreateTopicsRequest, 5, fields).topics
        assert created.error_code == 0, created
        self._wait_led(name)
        return name

    def topic_id(self, name: str) -> uuid.UUID:
        [topic] = self.quiet(MetadataRequest, 12, {"topics": [{"name": name}]}).topics
        self._names["topic_id", topic.topic_id] = f"<id of {name}>"
        return topic.topic_id

    def shares(self, transactional_ids: Sequence[str]) -> list[list[str]]:
        return self._routes.shares(transactional_ids)

    def shown(self, topic_id: uuid.UUID) -> str:
        return self._known("topic_id", topic_id)

    def _wait_led(self, name: str) -> None:
        deadline = time.monotonic() + COORDINATOR_S
        while time.monotonic() < deadline:
            [topic] = self.quiet(MetadataRequest, 5, {"topics": [{"name": name}]}).topics
            if topic.error_code == 0 and all(self._is_led(name, row.partition_index) for row in topic.partitions):
                return
        raise AssertionError(f"{name} has no leader")

    def _is_led(self, name: str, index: int) -> bool:
        """Kafka shows a topic in Metadata before its leaders serve."""
        row = {"partition_index": index, "current_leader_epoch": -1, "timestamp": -1}
        fields = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": name, "partitions": [row]}]}
        [topic] = self.quiet(ListOffsetsRequest, 6, fields).topics
        return bool(topic.partitions[0].error_code == 0)

    def quiet(self, request_class: Any, version: int, fields: dict[str, Any]) -> Any:
        """The response itself; nothing is written down."""
        return self._connection(request_class, fields).call(build(request_class, version, fields))

    def call(self, label: str, request_class: Any, version: int, **fields: Any) -> Any:
        """Writes the answer down under `label`; returns the decoded response, or None when there was none."""
        wire = self._connection(request_class, fields)
        request = build(request_class, version, fields)
        wire.send(request)
        return self._receive(label, wire, request.API_KEY, version)

    def note(self, label: str, seen: Any) -> None:
        """Writes down what the case itself made of an answer."""
        assert label not in self.answers, f"label used twice: {label}"
        self.answers[label] = self._plain(seen)

    def ask(self, request_class: Any, version: int, **fields: Any) -> Waiting:
        """Sends a request on a connection of its own; the answer may be long in coming."""
        wire = Wire(self._routes.to(request_class, fields), timeout_s=LONG_S)
        request = build(request_class, version, fields)
        wire.send(request)
        return Waiting(self, wire, request.API_KEY, version)

    def raw(self, label: str, payload: bytes, api_key: int | None = None, version: int = 0) -> Any:
        """Sends a frame as it is. Without an api key only the first two bytes of the answer's body are kept."""
        wire = self._connection_to(self._address)
        wire.send_frame(payload)
        return self._receive(label, wire, api_key, version)

    def raw_bytes(self, label: str, data: bytes) -> None:
        wire = self._connection_to(self._address)
        wire.send_bytes(data)
        self._receive(label, wire, None, 0)

    def _receive(self, label: str, wire: Wire, api_key: int | None, version: int) -> Any:
        assert label not in self.answers, f"label used twice: {label}"
        response = None
        try:
            frame = wire.receive_frame()
            if api_key is None:
                self.answers[label] = f"answered, {frame[4:6].hex()}..."
            else:
                response = decode_response(api_key, version, frame)
                self.answers[label] = self._plain(response)
        except EOFError:
            self.answers[label] = "closed"
            self.close()
        except TimeoutError:
            self.answers[label] = "no answer"
            self.close()
        return response

    def _connection(self, request_class: Any, fields: dict[str, Any]) -> Wire:
        return self._connection_to(self._routes.to(request_class, fields))

    def _connection_to(self, address: tuple[str, int]) -> Wire:
        if address not in self._wires:
            self._wires[address] = Wire(address, timeout_s=SILENT_S)
        return self._wires[address]

    def _plain(self, value: Any, name: str = "") -> Any:
        """Dictionaries, lists, strings and numbers, with what may differ named."""
        if hasattr(value, "_struct"):
            fields = value._struct._fields
            version = value.version
            kept = [f for f in fields if f.name not in DROPPED and (version is None or f.for_version_q(version))]
            plain = {field.name: self._plain(getattr(value, field.name), field.name) for field in kept}
            if plain.get("error_code") and "base_offset" in plain:
                plain.pop("log_start_offset", None)  # depends on where in Kafka's code it was refused
            if "coordinator_epoch" in plain and value.producer_id < FIRST_OWN_PRODUCER_ID:
                plain["coordinator_epoch"] = self._routes.as_never_moved(value.coordinator_epoch)
            return plain
        if isinstance(value, dict):
            return {key: self._plain(item, key) for key, item in value.items()}
        if isinstance(value, set):
            return sorted(value)
        if isinstance(value, list | tuple):
            return self._plain_list(value, name)
        if isinstance(value, uuid.UUID):
            return self._known("topic_id", value) if value.int else "<zero id>"
        if isinstance(value, bytes | bytearray | memoryview):
            return (
                [self._plain_batch(found) for found in describe(bytes(value))] if name == "records" else _shown(value)
            )
        if isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(time.time() * 1000 - value) < NOW_SLACK_MS:
            return "<now>"
        if name in NAMED and value not in (0, "", None, -1) and not _is_own(value):
            return self._known(name, value)
        if name == "producer_id" and 0 <= value < FIRST_OWN_PRODUCER_ID:
            return self._known(name, value)
        return value

    def _plain_list(self, values: Sequence[Any], name: str) -> list[Any]:
        """Structures in an order of their own: Kafka's is often a hash map's. Our configs beside Kafka's are left
        out.
        """
        kept = [value for value in values if not str(getattr(value, "name", "")).startswith("bytemq.")]
        plain = [self._plain(value, name) for value in kept]
        unordered = name in UNORDERED or any(isinstance(value, dict) for value in plain)
        return sorted(plain, key=str) if unordered else plain

    def _plain_batch(self, found: dict[str, Any]) -> dict[str, Any]:
        plain = {name: self._plain(value, name) for name, value in found.items()}
        if found.get("attributes", 0) & CONTROL and 0 <= found["producer_id"] < FIRST_OWN_PRODUCER_ID:
            body = bytes.fromhex(found["body"])
            epoch = self._routes.as_never_moved(int.from_bytes(body[MARKER_EPOCH]))
            plain["body"] = b"".join((body[: MARKER_EPOCH.start], epoch.to_bytes(4), body[MARKER_EPOCH.stop :])).hex()
        return plain

    def _known(self, kind: str, value: object) -> str:
        return self._names.setdefault((kind, value), f"<{kind} {sum(known == kind for known, _ in self._names) + 1}>")


def _shown(value: bytes | bytearray | memoryview) -> str:
    """Megabytes by their size and digest."""
    return value.hex() if len(value) <= SHOWN_BYTES else f"<{len(value)} bytes, {hashlib.sha256(value).hexdigest()}>"


def _is_own(value: object) -> bool:
    return isinstance(value, str) and value.startswith(OWN)


def wait_for_coordinator(subject: Subject, group: str) -> None:
    """Until the group's partition is loaded: before, an honest server says so (14, 15 or 16)."""
    deadline = time.monotonic() + COORDINATOR_S
    while time.monotonic() < deadline:
        found = subject.quiet(FindCoordinatorRequest, 1, {"key": group, "key_type": 0})
        if found.error_code == 0:
            described = subject.quiet(DescribeGroupsRequest, 5, {"groups": [group]})
            if described.groups[0].error_code not in (14, 15, 16):
                return
        time.sleep(0.01)
    raise AssertionError("no coordinator")


def run_case(name: str, address: tuple[str, int]) -> dict[str, Answer]:
    """The transcript of one case on one server."""
    subject = Subject(address, f"d-{name.replace('_', '-')}")
    try:
        registry[name](subject)
    finally:
        subject.close()
    return subject.answers


def differences(expected: Answer, got: Answer, path: str = "") -> list[str]:
    """Every place where two answers differ, as `path: expected -> got`."""
    if isinstance(expected, dict) and isinstance(got, dict):
        names = [*expected, *(name for name in got if name not in expected)]
        pairs = [(f"{path}.{name}".lstrip("."), expected.get(name, ABSENT), got.get(name, ABSENT)) for name in names]
        return [line for name, left, right in pairs for line in differences(left, right, name)]
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) == len(got):
            numbered = enumerate(zip(expected, got, strict=True))
            return [line for index, (left, right) in numbered for line in differences(left, right, f"{path}[{index}]")]
        missing = [f"{path}: {_short(item)} -> {ABSENT}" for item in _beyond(expected, got)]
        return missing + [f"{path}: {ABSENT} -> {_short(item)}" for item in _beyond(got, expected)]
    return [] if expected == got else [f"{path}: {_short(expected)} -> {_short(got)}"]


def _beyond(items: list[Answer], others: list[Answer]) -> list[Answer]:
    """Those that are not among the others, or not as often."""
    left = list(others)
    beyond = []
    for item in items:
        if item in left:
            left.remove(item)
        else:
            beyond.append(item)
    return beyond


def _short(answer: Answer) -> str:
    text = repr(answer)
    return text if len(text) < SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
