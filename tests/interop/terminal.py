"""What an operator types and sees: runs Kafka's tools and writes down what they print, in a comparable form.

Owns what is replaced: what a server may choose freely (addresses, ids, times), how wide columns are, and Java's stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.interop.kafka_shell import KafkaShell

Transcript = Callable[["Terminal"], None]

_CHOSEN_BY_THE_SERVER = (
    (re.compile(r"127\.0\.0\.1:\d+ \((id: )?\d+( rack: \S+)?( isFenced: \w+)?\)"), "<broker>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"sent to broker \d+"), "sent to <broker>"),
    (re.compile(r"TopicId: \S+"), "TopicId: <id>"),
    (re.compile(r"Leader: \d+ Replicas: [\d,]+ Isr: [\d,]+"), "<replicas>"),
    (re.compile(r"FinalizedVersionLevel: (\S+) Epoch: \d+"), r"FinalizedVersionLevel: \1 Epoch: <number>"),
    (re.compile(r"\b1[789]\d{11}\b"), "<ms>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3}Z?\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
)
_COLUMNS_CHOSEN_BY_THE_SERVER = {
    "ProducerId",
    "Coordinator",
    "CoordinatorId",
    "CoordinatorEpoch",
    "LatestCoordinatorEpoch",
    "LastTimestamp",
    "CurrentTransactionStartTimeMs",
    "TransactionDurationMs",
    "Duration(min)",
}
_NOT_SAID_BY_THE_TOOL = re.compile(r"^\s+at |^\s+\.\.\. \d+ more|^SLF4J|interop\.ToolShell")
OURS = "bytemq."


class Terminal:
    """On one server. What was printed is kept in `printed`, by what was typed."""

    def __init__(self, shell: KafkaShell, bootstrap: str, address: tuple[str, int], prefix: str, folder: Path) -> None:
        self.address = address
        self.bootstrap = bootstrap
        self.printed: dict[str, list[str]] = {}
        self._shell = shell
        self._prefix = prefix
        self._folder = folder
        self._names = 0
        self._hidden: dict[str, str] = {}

    def new_name(self, kind: str) -> str:
        """The same on every server, used once per run."""
        self._names += 1
        return f"{self._prefix}-{kind}{self._names}"

    def file(self, name: str, content: str) -> str:
        """The path of a file for a tool to read; what is typed shows its name."""
        path = self._folder / name
        path.write_text(content)
        self.hide(str(path), name)
        return str(path)

    def hide(self, text: str, shown: str) -> None:
        """Text that differs from server to server, and by what it is replaced."""
        self._hidden[text] = shown

    def run(self, tool: str, *arguments: str, typed: str = "", about: str = "") -> str:
        """Calls the tool; returns what it printed as it was. `about`: only lines with this word are written down, for
        a tool that tells of all there is on a server.
        """
        printed = self.quiet(tool, *arguments, typed=typed)
        said = self._comparable(f"{tool} {' '.join(arguments)}")[0]
        label = next(each for each in _numbered(said) if each not in self.printed)
        kept = "".join(self._comparable(about))
        self.printed[label] = [line for line in self._comparable(printed) if kept in line or line.startswith("exit ")]
        return printed

    def quiet(self, tool: str, *arguments: str, typed: str = "") -> str:
        done = self._shell.call(tool, ["--bootstrap-server", self.bootstrap, *arguments], typed)
        ended = f"exit {done.exit_code}\n" if done.exit_code else ""
        return f"{done.out}{done.err}{ended}"

    def _comparable(self, text: str) -> list[str]:
        for hidden, shown in self._hidden.items():
            text = text.replace(hidden, shown)
        lines = [" ".join(line.split()) for line in text.splitlines() if not _NOT_SAID_BY_THE_TOOL.search(line)]
        for pattern, shown in _CHOSEN_BY_THE_SERVER:
            lines = [pattern.sub(shown, line) for line in lines]
        return [line for line in _without_chosen_columns(lines) if line and not line.startswith(OURS)]


def _numbered(text: str) -> Iterator[str]:
    yield text
    number = 2
    while True:
        yield f"{text} (#{number})"
        number += 1


def _without_chosen_columns(lines: list[str]) -> Iterator[str]:
    """In tables that begin with a line of their columns' names. That there is nothing (-1, None) stays."""
    names: list[str] = []
    for line in lines:
        columns = line.split(" ")
        if any(name in _COLUMNS_CHOSEN_BY_THE_SERVER for name in columns):
            names = columns
        elif names and len(names) - len(columns) in (0, 1):  # the last column may be empty
            columns = [_shown(name, value) for name, value in zip(names, columns, strict=False)]
        yield " ".join(columns)


def _shown(column: str, value: str) -> str:
    is_chosen = column in _COLUMNS_CHOSEN_BY_THE_SERVER and value not in ("-1", "None")
    return f"<{column}>" if is_chosen else value
