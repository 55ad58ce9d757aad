"""What the pages name is there: links, files, modules of the map, targets of make, modules that are run, commands."""

from __future__ import annotations

import argparse
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bytemq.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "bytemq", "deploy", "docs", "tests", "tools")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FILES = [path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
PACKAGES = {path.parent.relative_to(ROOT / "bytemq").as_posix() for path in (ROOT / "bytemq").rglob("__init__.py")}
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def code(page: Path) -> Iterator[str]:
    """Spans of code, and the lines of blocks."""
    yield from re.findall(r"`([^`\n]+)`", prose(page))
    for block in FENCE.findall(page.read_text()):
        yield from block.split("\n")[1:-1]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield target


def is_a_file(name: str) -> bool:
    return any(path == name or path.endswith("/" + name) for path in FILES)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Also of the commands within it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(options_of, action.choices.values()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_page__names_what_is_there(page: Path) -> None:
    spans = list(code(page))
    text = "\n".join(spans)
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert list(missing_links(page)) == [], "links"
    if "adr" not in page.parts:  # which tell of what was, too
        files = {span for span in spans if re.fullmatch(r"[a-z_][\w/]*\.(py|c|md)", span)}
        assert {name for name in files if not is_a_file(name)} == set(), "files"
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", text)) - targets == set(), "targets of make"
    modules = re.findall(r"python3? -m ((?:benchmarks|tests|tools|bytemq)[\w.]*)", text)
    paths = {each: each.replace(".", "/") for each in modules}
    unknown = {each for each, path in paths.items() if not {f"{path}.py", f"{path}/__main__.py"} & {*FILES}}
    assert unknown == set(), "modules that are run"
    used = re.findall(r"(?:^|[ /])bytemq ([a-z][a-z-]*)([^|;&\n]*)", text, re.MULTILINE)
    assert {command for command, _ in used} - {*COMMANDS} == set(), "commands"
    options = {(command, each) for command, words in used for each in re.findall(r"(?<![\w-])--[a-z][a-z-]*", words)}
    assert {(command, each) for command, each in options if each not in options_of(build_parser([command]))} == set()


def rows_of_the_map() -> Iterator[tuple[list[str], list[str]]]:
    """Folders, and the modules in them that are pure."""
    floors = ARCHITECTURE.read_text().split("## The floors")[1].split("\n## ")[0]
    for row in re.findall(r"^\| `.*$", floors, re.MULTILINE):
        folders, _, pure = row.removeprefix("| ").removesuffix(" |").split("|")
        yield re.findall(r"`([\w/]+)/`", folders), re.findall(r"`(\w+)/?`", pure)


def folder_of(name: str, row: list[str]) -> str:
    """Within the folder that the first one of its row is in, or by itself."""
    return name if name in PACKAGES else f"{Path(row[0]).parent.as_posix()}/{name}"


def test_file_map__has_every_folder_and_no_other() -> None:
    shown = {folder_of(name, row) for row, _ in rows_of_the_map() for name in row}
    assert shown - PACKAGES == set()
    covered = {each for each in PACKAGES if any(f"{each}/".startswith(f"{name}/") for name in shown)}
    assert PACKAGES - covered - {"."} == set()
    of_storage = {each for each in PACKAGES if re.fullmatch(r"storage/\w+", each)}
    assert of_storage - shown == set(), "storage has a row for each"


def test_file_map__names_what_is_held_to_be_pure() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    held = set(contracts["importlinter:contract:pure-machines"]["source_modules"].split())
    shown = {(folder_of(row[0], row), name) for row, pure in rows_of_the_map() for name in pure if row != ["config"]}
    assert {f"bytemq.{folder}.{name}".replace("/", ".") for folder, name in shown} - held == set()
