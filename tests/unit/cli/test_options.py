"""The command line without a server: help, usage, how options become configs, and how results look."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bytemq import __version__
from bytemq.cli.consume import formatted
from bytemq.cli.main import COMMANDS as ALL
from bytemq.cli.main import build_parser, main
from bytemq.cli.options import Failed
from bytemq.cli.output import show
from bytemq.cli.reset_offsets import Bounds, new_offset, wanted_timestamp_ms
from bytemq.cli.start import node_config
from bytemq.config import BrokerConfig, Endpoint, InvalidConfig

COMMANDS = [
    *([command] for command in ALL),
    *(["topic", action] for action in ("create", "list", "describe", "alter", "delete")),
    *(["group", action] for action in ("list", "describe", "reset-offsets", "delete")),
    *(["table", action] for action in ("list", "describe", "files", "build")),
    *(["metadata", action] for action in ("export", "restore")),
    *(["cluster", action] for action in ("status", "brokers", "partitions", "drain", "undrain", "upgrade", "pools")),
    ["dev", "cluster"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help__every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert exited.value.code == 0
    assert text.startswith(f"usage: bytemq {' '.join(command)}")
    assert len(text.splitlines()) > 6


@pytest.mark.parametrize(
    "command", [["start"], ["topic"], ["produce"], ["consume"], ["group"], ["verify"], ["dump"], ["copy"]]
)
def test_help__has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert f"  bytemq {command[0]}" in capsys.readouterr().out.partition("examples:")[2]


def test_sql__to_where_nobody_answers_ends_soon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(address: tuple[str, int], timeout: float | None, *_: object) -> socket.socket:
        assert timeout is not None and timeout < 10
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    assert main(["sql", "select 1", "--http", "192.0.2.1:9464"]) == 1
    assert capsys.readouterr().err.startswith("bytemq: no answer from 192.0.2.1:9464: timed out")


def test_output__that_cannot_be_written_is_told_in_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([sys.executable, "-m", "bytemq", "doctor"], stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.decode() == "bytemq: the output: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams__that_are_closed_lead_nowhere(closed: str) -> None:
    command = ["sh", "-c", f'"$0" -m bytemq doctor {closed}', sys.executable]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ["sql", "select 1", "--http", "127.0.0.1:99999"],
        ["sql", "select 1", "--http", "[::1"],
        ["table", "list", "--http", "https://127.0.0.1:9464"],
        ["topic", "list", "--bootstrap-server", f"{'x' * 64}:9092"],
        ["topic", "list", "--bootstrap-server", "127.0.0.1:99999"],
        ["log-level", "--bootstrap-server", "one..two:9092"],
        ["cluster", "status", "--metadata", "etcd://[::1/c"],
        ["start", "--data", "{}/data", "--storage", "s3://[::1/c"],
    ],
    ids=" ".join,
)
def test_address__that_makes_no_sense_is_refused_with_a_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(tmp_path) for part in command]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("bytemq: ") and repr(command[-1]) in said


def test_version__is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"bytemq {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["topic"],
        ["topic", "create"],
        ["group", "describe"],
        ["produce"],
        ["consume", "t", "--offset", "3"],
        ["consume", "t", "--timeout", "-1"],
        ["consume", "t", "--timeout", "nan"],
        ["consume", "t", "--max-messages", "0"],
        ["produce", "t", "--partition", "-1"],
        ["topic", "create", "t", "--partitions", "0"],
        ["topic", "create", "t", "--partitions", "-3"],
        ["topic", "alter", "t", "--partitions", "100001"],
        ["start", "--durability", "maybe"],
        ["group", "reset-offsets", "g", "--topic", "t"],
        ["group", "reset-offsets", "g", "--to-earliest"],
        ["group", "reset-offsets", "g", "--topic", "t", "--to-earliest", "--to-latest"],
    ],
    ids=" ".join,
)
def test_usage__errors_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: bytemq" in capsys.readouterr().err


def test_help__loads_nothing_heavy() -> None:
    """`bytemq --help` stays quick: no client library, no event loop, no configs, no tables."""
    program = "import sys\nfrom bytemq.cli.main import build_parser\nbuild_parser()\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"confluent_kafka", "rich", "asyncio", "uvloop", "cramjam", "bytemq.node", "bytemq.config"}


def test_a_command__loads_its_own_module_only() -> None:
    program = (
        "import contextlib, sys\nfrom bytemq.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['start', '--help'])\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    commands = {name for name in done.stdout.split() if name.startswith("bytemq.cli.")}
    assert commands == {"bytemq.cli.main", "bytemq.cli.options", "bytemq.cli.start"}


def config_of(*arguments: str) -> BrokerConfig:
    return node_config(build_parser().parse_args(["start", *arguments]))


def test_start__options_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.properties"
    path.write_text("num.partitions=2\nlog.retention.ms=2\nnode.id=2\nmessage.max.bytes=2\n")
    monkeypatch.setenv("BYTEMQ_LOG_RETENTION_MS", "3")
    monkeypatch.setenv("BYTEMQ_MESSAGE_MAX_BYTES", "3")
    monkeypatch.setenv("BYTEMQ_NODE_ID", "3")
    config = config_of("--config", str(path), "--set", "message.max.bytes=4", "--id", "5")
    assert (config.num_partitions, config.log_retention_ms, config.message_max_bytes, config.node_id) == (2, 3, 4, 5)


@pytest.mark.parametrize("name", ["node.id", "broker.id"])
def test_start__that_claims_an_id_wants_none_whatever_the_file_says(name: str, tmp_path: Path) -> None:
    """One file may be that of all brokers: all would want the same id, and wait for whoever has it."""
    path = tmp_path / "server.properties"
    path.write_text(f"{name}=2\nnum.partitions=2\n")
    config = config_of("--config", str(path), "--id", "auto")
    assert config.static.keys() == {"num.partitions", "bytemq.node.id.auto"}
    assert config.with_node_id(7).node_id == 7


def test_start__addresses_zone_and_durability() -> None:
    config = config_of(
        *("--listen", "INSIDE://0.0.0.0:9092", "--advertise", "INSIDE://kafka:9092"),
        *("--listen", "127.0.0.1:19092", "--zone", "z1", "--durability", "page-cache", "--data", "/d"),
    )
    assert config.endpoints == (Endpoint("INSIDE", "0.0.0.0", 9092), Endpoint("PLAINTEXT", "127.0.0.1", 19092))
    assert config.advertised_endpoints[0] == Endpoint("INSIDE", "kafka", 9092)
    assert (config.broker_rack, config.bytemq_durability, config.data_dir) == ("z1", "page-cache", "/d")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nonsense"],
        ["--listen", "a:1", "--listen", "b:1"],
        ["--id", "-1"],
        ["--id", "x"],
        ["--set", "nope=1"],
        ["--set", "log.retention.ms"],
        ["--config", "/does/not/exist"],
        ["--advertise", "0.0.0.0:9092"],
        ["--roles", "read"],
        ["--roles", "write,nonsense", "--metadata", "etcd://h:1/p", "--storage", "s3://b"],
        ["--roles", "", "--metadata", "etcd://h:1/p", "--storage", "s3://b"],
    ],
    ids=" ".join,
)
def test_start__bad_settings_are_refused_before_anything_starts(arguments: list[str]) -> None:
    with pytest.raises(InvalidConfig):
        config_of(*arguments)
    assert main(["start", *arguments]) == 1


def scenario(**chosen: object) -> Namespace:
    unset = dict.fromkeys(("to_offset", "shift_by", "to_datetime", "by_duration"))
    unset |= dict.fromkeys(("to_earliest", "to_latest", "to_current"), False)
    return Namespace(**{**unset, **chosen})


@pytest.mark.parametrize(
    ("chosen", "current", "found_by_time", "expected"),
    [
        ({"to_earliest": True}, 50, -1, 10),
        ({"to_latest": True}, 50, -1, 100),
        ({"to_current": True}, 50, -1, 50),
        ({"to_current": True}, None, -1, 100),
        ({"to_offset": 0}, 50, -1, 10),
        ({"to_offset": 70}, None, -1, 70),
        ({"to_offset": 1000}, 50, -1, 100),
        ({"shift_by": -5}, 50, -1, 45),
        ({"shift_by": -500}, 50, -1, 10),
        ({"shift_by": 500}, 50, -1, 100),
        ({"shift_by": 1}, None, -1, None),
        ({"to_datetime": "2026-01-01T00:00:00"}, 50, 42, 42),
        ({"by_duration": "PT1H"}, 50, -1, 100),
    ],
)
def test_reset_offsets__scenarios(
    chosen: dict[str, object], current: int | None, found_by_time: int, expected: int | None
) -> None:
    assert new_offset(scenario(**chosen), Bounds(10, 100, current), found_by_time) == expected


def test_reset_offsets__times() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    noon_ms = 1767268800000
    assert wanted_timestamp_ms(scenario(by_duration="PT1H"), now) == noon_ms - 3_600_000
    assert wanted_timestamp_ms(scenario(to_datetime="2026-01-01T12:00:00.000")) == noon_ms
    assert wanted_timestamp_ms(scenario(to_datetime="2026-01-01T13:00:00+01:00")) == noon_ms
    assert wanted_timestamp_ms(scenario(to_latest=True)) is None
    for wrong in (scenario(by_duration="1h"), scenario(to_datetime="yesterday")):
        with pytest.raises(Failed):
            wanted_timestamp_ms(wrong)


class FakeMessage:
    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes:
        return b"v\xff"

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 17

    def timestamp(self) -> tuple[int, int]:
        return 1, 99

    def headers(self) -> list[tuple[str, bytes | None]]:
        return [("a", b"1"), ("b", None)]


def test_consume__format_fills_in_fields_byte_for_byte() -> None:
    template = "%t [%p] %o %T%%: %k -> %s (%h)\\t%x\\n"
    assert formatted(FakeMessage(), template) == b"t [3] 17 99%: NULL -> v\xff (a=1,b=NULL)\t%x\n"


def test_output__text_is_aligned_and_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"group": "g", "lag": 5, "host": None}, {"group": "longer", "lag": 10, "extra": 1}]
    show(rows, ("group", "lag", "host"), as_json=False)
    assert capsys.readouterr().out == "GROUP   LAG  HOST\ng       5    -\nlonger  10   -\n"
    show(rows, ("group", "lag"), as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"group": "g", "lag": 5}, {"group": "longer", "lag": 10}]


@pytest.mark.parametrize(("columns", "is_table"), [("80", False), ("120", True)])
def test_output__a_terminal_too_narrow_for_the_table_gets_lines(
    columns: str, is_table: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    member = "bytemq-cli-7ad9f7d2-eb62-4a17-a06c-1bb7790d3c28"
    show([{"consumer_id": member, "host": "h" * 40, "lag": 5}], ("consumer_id", "host", "lag"), as_json=False)
    text = capsys.readouterr().out
    assert ("──" in text) == is_table
    assert member in text and "CONSUMER-ID" in text  # whole, however it is shown
