"""Regenerate docs/configuration.md from the settings as the program knows them.

python tools/generate_configuration_page.py            write the page
python tools/generate_configuration_page.py --check    exit with 1 if it is not up to date
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bytemq.config.definitions import broker_definitions, topic_definitions
from bytemq.config.no_effect import why_no_effect
from bytemq.config.own import DEFAULTS_HERE, OWN_BROKER_SETTINGS, OWN_TOPIC_SETTINGS
from bytemq.config.sources import environment_name

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
OPENING = """\
# Configuration

Made by `tools/generate_configuration_page.py` from what the program knows; edit that.

bytemq takes the settings of Apache Kafka 4.4 under their names, with their types, defaults and checks. A broker's are
read from the file given with `--config` (the syntax of server.properties), then the environment (`BYTEMQ_` and the name
in capitals: `BYTEMQ_LOG_RETENTION_MS`), then `--set NAME=VALUE` and the other flags of `bytemq start`; the later wins.
What Kafka can change while it runs (`kafka-configs`, `bytemq topic alter`) can be changed here. DescribeConfigs gives
each setting's documentation, and the reason where it has no effect.
"""


def page() -> str:
    parts = [OPENING, _own(), _other_defaults(), _no_effect()]
    return "\n".join(parts)


def _own() -> str:
    lines = [
        "## Settings that Kafka does not have\n",
        "| name | default | environment | what it is |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | `{one.default}` | `{environment_name(one.name)}` | {one.documentation} |"
        for one in OWN_BROKER_SETTINGS
    ]
    names = ", ".join(f"`{one.name}`" for one in OWN_TOPIC_SETTINGS)
    return "\n".join([*lines, "", f"Also as a topic's config: {names}.", ""])


def _other_defaults() -> str:
    lines = ["## Defaults that differ from Kafka's\n", "| name | here |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | `{value}` |" for name, value in DEFAULTS_HERE.items()), ""])


def _no_effect() -> str:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name in sorted({*broker_definitions(), *topic_definitions()}):
        if reason := why_no_effect(name):
            by_reason[reason].append(name)
    lines = ["## Accepted, checked, and without effect\n"]
    for reason, names in by_reason.items():
        lines.append(f"**Because {reason}:** {', '.join(f'`{name}`' for name in names)}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
