"""What the reports of foreign test suites are taken to say."""

from __future__ import annotations

from pathlib import Path

from tests.suites.results import of_junit, of_librdkafka

LIBRDKAFKA = """\
\x1b[36m[0001_one  /  0.000s] ================= Running test 0001_one =================
\x1b[36m[0001_one  /  0.013s] [ do_test_a:495: PASS (0.01s) ]
\x1b[36m[0001_one  /  1.0s] \x1b[32m================= Test 0001_one PASSED =================\x1b[0m
\x1b[36m[0002_two  /  0.000s] ================= Running test 0002_two =================
\x1b[36m[0002_two  /  0.1s] TEST FAILURE
\x1b[36m[0003_three  /  0.000s] ================= Running test 0003_three =================
\x1b[36m[0003_three  /  0.000s] ================= Test 0003_three SKIPPED =================
"""


def test_of_librdkafka__what_began_and_did_not_pass_has_failed() -> None:
    results = of_librdkafka(LIBRDKAFKA)
    assert (results.passed, results.failed, results.skipped) == (1, ["0002_two"], ["0003_three"])
    assert results.subtests_passed == 1


def test_of_junit__a_test_that_could_not_be_set_up_has_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="m" name="good"/>'
        '<testcase classname="m" name="bad"><failure/></testcase>'
        '<testcase classname="m" name="unset"><error/></testcase>'
        '<testcase classname="m" name="left"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    assert of_junit(report) == (1, ["m::bad", "m::unset"], ["m::left"], 0)
