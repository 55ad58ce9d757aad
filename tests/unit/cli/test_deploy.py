"""What deploy/ says to brokers must be what brokers understand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

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


@pytest.mark.parametrize("version", ["1.31", "1.35", "1.37"])
def test_manifests__are_what_kubernetes_knows(version: str) -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "bytemq.yaml").read_text()))
    assert {manifest["kind"] for manifest in manifests} >= {"StatefulSet", "PodDisruptionBudget", "Service"}
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_manifests__with_a_field_that_there_is_not_are_found() -> None:
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "t"}, "spec": {"selectors": {"app": "t"}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_service__is_what_systemd_knows(tmp_path: Path) -> None:
    unit = tmp_path / "bytemq.service"
    unit.write_text((DEPLOY / "systemd" / "bytemq.service").read_text().replace("/opt/bytemq/bin/bytemq", "/bin/true"))
    ended = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def _help_of(words: list[str]) -> str:
    """Raises SystemExit when there is no such command."""
    parser = build_parser()
    for word in words:
        actions = next(action for action in parser._actions if isinstance(action.choices, dict))
        assert isinstance(actions.choices, dict) and word in actions.choices, word
        parser = actions.choices[word]
    return parser.format_help()
