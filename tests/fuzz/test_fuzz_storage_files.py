"""The fuzz target of the storage's files, for a few seconds and always with the same inputs."""

from __future__ import annotations

from tests.fuzz import fuzz_storage_files, runner


def test_storage_files__never_fail_otherwise_than_corrupt() -> None:
    assert runner.run(fuzz_storage_files.storage_file, fuzz_storage_files.seeds(), seed=1, rounds=800) == 800
