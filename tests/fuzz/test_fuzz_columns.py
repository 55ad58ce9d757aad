"""The fuzz target of records as columns, briefly: the same inputs at each run, to be sure that the target works."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.fuzz import fuzz_columns
from tests.fuzz.runner import FuzzFailure, run


@pytest.mark.parametrize("seed", range(2))
def test_fuzz_columns(seed: int) -> None:
    assert run(fuzz_columns.either, fuzz_columns.SEEDS, seed=seed, rounds=4000) == 4000


def test_seeds__are_columns_that_make_sense() -> None:
    for seed in fuzz_columns.SEEDS_OF_RECORDS:
        fuzz_columns.records(seed)
    for seed in fuzz_columns.SEEDS_OF_COLUMNS:
        fuzz_columns.columns(seed)


def test_fuzz_columns__would_notice_encoders_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(ModuleType):
        @staticmethod
        def encode(*_: object) -> tuple[int, int, int, bytes]:
            return 1, 0, 0, b""

    wrong = [*fuzz_columns.IMPLEMENTATIONS, Wrong("wrong")]
    monkeypatch.setattr(fuzz_columns, "IMPLEMENTATIONS", wrong)
    with pytest.raises(FuzzFailure):
        run(fuzz_columns.columns, fuzz_columns.SEEDS_OF_COLUMNS, seed=0, rounds=500)
