"""What a suite's own report says: how many passed, which failed, which were skipped. Reads, and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

_COLOUR = re.compile(r"\x1b(\[[0-9;]*m|\(B)")
_TEST_ENDED = re.compile(r"=+ Test (\S+) (PASSED|FAILED|SKIPPED)")
_TEST_BEGAN = re.compile(r"=+ Running test (\S+) =+")
_SUBTEST_PASSED = re.compile(r"\] \[ .*: PASS")


class Results(NamedTuple):
    passed: int
    failed: Sequence[str]
    skipped: Sequence[str]
    subtests_passed: int = 0


def named(results: Results, selection: str | None) -> Results:
    """The same, with what of a test was selected in the names."""
    if selection is None:
        return results
    failed = [f"{name}, {selection}" for name in results.failed]
    return results._replace(failed=failed, skipped=[f"{name}, {selection}" for name in results.skipped])


def sum_of(rounds: Sequence[Results]) -> Results:
    """What several runs of one suite found together."""
    return Results(
        sum(each.passed for each in rounds),
        [name for each in rounds for name in each.failed],
        [name for each in rounds for name in each.skipped],
        sum(each.subtests_passed for each in rounds),
    )


def of_junit(report: Path) -> Results:
    """pytest's report. A test that could not be set up has failed."""
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif case.find("skipped") is not None:
            skipped.append(name)
        else:
            passed += 1
    return Results(passed, sorted(set(failed)), skipped)


def of_librdkafka(output: str) -> Results:
    """Its test program stops a test at its first failure, and then says of no test in the end that it failed: whatever
    began and did neither pass nor get skipped has failed.
    """
    began: dict[str, None] = {}
    ended: dict[str, str] = {}
    subtests_passed = 0
    for line in _COLOUR.sub("", output).splitlines():
        if (found := _TEST_BEGAN.search(line)) is not None:
            began[found[1]] = None
        elif (found := _TEST_ENDED.search(line)) is not None:
            ended[found[1]] = found[2]
        elif _SUBTEST_PASSED.search(line) is not None:
            subtests_passed += 1
    failed = [name for name in began if ended.get(name, "FAILED") == "FAILED"]
    passed = sum(outcome == "PASSED" for outcome in ended.values())
    skipped = [name for name, outcome in ended.items() if outcome == "SKIPPED"]
    return Results(passed, failed, skipped, subtests_passed)
