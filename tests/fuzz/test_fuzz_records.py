"""The fuzz target of record batches, briefly: the same inputs at each run, to be sure that the target itself works."""

from __future__ import annotations

import pytest

from tests.fuzz import fuzz_records
from tests.fuzz.runner import FuzzFailure, run


@pytest.mark.parametrize("seed", range(2))
def test_fuzz_produced(seed: int) -> None:
    assert run(fuzz_records.produced, fuzz_records.SEEDS, seed=seed, rounds=6000) == 6000


def test_fuzz_produced__would_notice_walks_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        @staticmethod
        def walk(*arguments: object) -> tuple[int, ...]:
            return (99,)

    monkeypatch.setattr(fuzz_records, "IMPLEMENTATIONS", [*fuzz_records.IMPLEMENTATIONS, Wrong])
    with pytest.raises(FuzzFailure):
        run(fuzz_records.produced, fuzz_records.SEEDS, seed=0, rounds=500)
