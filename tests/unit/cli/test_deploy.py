"""What deploy/ says to brokers must be what brokers understand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bytemq.cli.main import build_parser
from bytemq.cli.start import node_config
from bytemq.config.sources import configs_of_environment, unknown_variables

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_deploy__names_settings_that_exist(file: Path) -> None:
    named = set(re.findall(r"\bBYTEMQ_[A-Z_]+\b", file.read_text()))
    assert unknown_variables(dict.fromkeys(named, "")) == []


def test_deploy__environment_of_the_service_makes_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (DEPLOY / "systemd" / "bytemq.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    for name, value in pairs:
        monkeypatch.setenv(name, value)
    assert len(configs_of_environment(dict(pairs))) == sum(name.startswith("BYTEMQ_") for name, _ in pairs)
    config = node_config(build_parser().parse_args(["start"]))
    assert (config.node_id, config.broker_rack) == (1, "a")
    assert config.bytemq_metadata.startswith("etcds://") and config.bytemq_storage == "s3://orders-log/records"


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_deploy__uses_commands_that_exist(file: Path) -> None:
    for found in re.findall(r"bytemq ((?:cluster|start)[^|\"';]*)", file.read_text()):
        words = [word.strip('"') for word in found.split() if word not in (">-",)]
        options = [word for word in words if word.startswith("--")]
        action = words[:2] if words[0] == "cluster" else words[:1]
        text = _help_of(action)
        assert not [option for option in options if option not in text], found


def _help_of(words: list[str]) -> str:
    """Raises SystemExit when there is no such command."""
    parser = build_parser()
    for word in words:
        actions = next(action for action in parser._actions if isinstance(action.choices, dict))
        assert isinstance(actions.choices, dict) and word in actions.choices, word
        parser = actions.choices[word]
    return parser.format_help()
