"""What people are shown of a cluster."""

from __future__ import annotations

import pytest

from bytemq.metadata.image import ClusterImage
from bytemq.metadata.loads import IDLE, LoadReport
from bytemq.scheduler.cluster_view import ClusterView, status

NOW_MS = 1_000_000


@pytest.mark.parametrize(
    ("told_before_s", "apart_s"), [([], None), ([0, 3, 14.9], 0.0), ([3, 75], 60.0), ([-7, 10], 7.0)]
)
def test_status__tells_clocks_apart_from_reports_that_are_some_seconds_old(
    told_before_s: list[float], apart_s: float | None
) -> None:
    reports = {
        broker: LoadReport(round(NOW_MS - before_s * 1000), IDLE) for broker, before_s in enumerate(told_before_s)
    }
    assert status(ClusterView(ClusterImage(), reports, []), NOW_MS)["clocks_apart_s"] == apart_s
