"""Consumer groups of KIP-848, told as transcripts: what consumers do, what they are answered, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.consumer_transcript import FOLDER, replay

TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript__is_what_the_coordinator_answers(path: Path) -> None:
    text = path.read_text()
    assert replay(text) == text


def test_transcripts__are_found() -> None:
    assert len(TRANSCRIPTS) >= 8
