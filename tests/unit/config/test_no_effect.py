"""The list of configs without effect against what the program really reads."""

from __future__ import annotations

import re
from pathlib import Path

import bytemq
from bytemq.config.definitions import broker_definitions, documentation, topic_definitions
from bytemq.config.no_effect import _REASONS, why_no_effect

PROGRAM = Path(bytemq.__file__).parent
ANNOTATIONS = {"broker_settings.py", "topic_settings.py", "group_settings.py"}
LISTS = {"no_effect.py", "own.py"}
CHECKED_ONLY = {"controller.listener.names", "queued.max.request.bytes"}
"""Read, if only to refuse contradictions."""


def read_configs() -> set[str]:
    """Configs whose attribute or name is in the program's text, and those that give a topic config its default."""
    text = "\n".join(
        path.read_text("utf-8")
        for path in sorted(PROGRAM.rglob("*.py"))
        if path.name not in ANNOTATIONS | LISTS and path.parent.name != "messages"
    )
    words = set(re.findall(r"\w+", text)) | set(re.findall(r'"([a-z0-9.]+)"', text))
    topic = {name for name in topic_definitions() if name.replace(".", "_") in words or name in words}
    broker = {name for name in broker_definitions() if name.replace(".", "_") in words or name in words}
    synonyms = {synonym for name in topic for synonym, _ in topic_definitions()[name].synonyms}
    return topic | broker | synonyms


def kafkas_configs() -> set[str]:
    own = ("bytemq.", "wal.", "storage.")
    return {name for name in (*broker_definitions(), *topic_definitions()) if not name.startswith(own)}


def test_no_effect__names_nothing_that_the_program_reads() -> None:
    listed = {name for name in kafkas_configs() if why_no_effect(name) is not None}
    read = {name for name in listed & read_configs() if not name.startswith("unclean.leader.election")}
    assert not read, "these are read now: take them off the list in bytemq/config/no_effect.py"


def test_no_effect__names_everything_that_the_program_does_not_read() -> None:
    silent = kafkas_configs() - read_configs() - CHECKED_ONLY
    unexplained = {name for name in silent if why_no_effect(name) is None}
    assert not unexplained, "nothing reads these: say why in bytemq/config/no_effect.py"


def test_no_effect__every_pattern_names_something() -> None:
    names = kafkas_configs()
    for _, patterns in _REASONS:
        for pattern in patterns.split():
            plain = re.escape(pattern).replace(r"\*", ".*")
            assert any(re.fullmatch(plain, name) for name in names), pattern


def test_documentation__says_so() -> None:
    assert "In bytemq this changes nothing" in (documentation("broker", "num.io.threads") or "")
    assert "In bytemq this changes nothing" not in (documentation("topic", "retention.ms") or "")
