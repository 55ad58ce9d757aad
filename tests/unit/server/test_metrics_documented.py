"""docs/metrics.md names every metric, and none that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_docs__name_every_metric() -> None:
    calls = re.compile(r"metrics\.(?:counters?|gauges?|histograms?)\(\s*\"(bytemq_[a-z_]+)\"")
    registered = {name for path in (ROOT / "bytemq").rglob("*.py") for name in calls.findall(path.read_text())}
    documented = set(re.findall(r"^\| `(bytemq_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert len(registered) > 15
    assert registered == documented
