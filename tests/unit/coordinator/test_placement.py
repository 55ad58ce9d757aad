"""Which partition has a group: the sums of a Java virtual machine."""

from __future__ import annotations

import pytest

from bytemq.broker.coordinator.placement import java_string_hash, partition_for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("g", 103),
        ("console-consumer-12345", 158_455_506),
        ("gröup", 98_758_982),
        ("日本", 835_047),
        ("\U0001f600x", 54_959_989),
        ("polygenelubricants", -(2**31)),
    ],
)
def test_java_string_hash__is_that_of_the_jvm(text: str, expected: int) -> None:
    assert java_string_hash(text) == expected


def test_partition_for__is_never_negative() -> None:
    assert partition_for("polygenelubricants", 50) == 0
    assert all(0 <= partition_for(f"group-{number}", 50) < 50 for number in range(1000))
