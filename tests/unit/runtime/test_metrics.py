"""Metrics: plain numbers on the hot path, Prometheus' text at a scrape."""

import pytest

from bytemq.runtime.metrics import Family, Metrics


def test_metrics__render_as_prometheus_text() -> None:
    metrics = Metrics()
    metrics.counter("bytemq_plain_total", "Plain").value += 2
    family = metrics.counters("bytemq_topic_bytes_in_total", "By topic", "topic")
    family.labels("a").value += 5
    family.labels("b").value += 1
    family.remove("b")
    metrics.gauge("bytemq_level", "Level", lambda: 7.5)
    metrics.gauges("bytemq_lag", "Lag", ("group", "partition"), lambda: [(("g", "0"), 3)])
    metrics.gauge("bytemq_read_total", "A count that somebody else keeps", lambda: 4)
    durations = metrics.histograms("bytemq_wait_seconds", "Waits", "api").labels("FETCH")
    durations.observe(0.0003)
    durations.observe(99)
    content_type, text = metrics.render()
    lines = text.decode().splitlines()
    assert content_type.startswith("text/plain")
    assert "bytemq_plain_total 2.0" in lines
    assert 'bytemq_topic_bytes_in_total{topic="a"} 5.0' in lines
    assert not any('topic="b"' in line for line in lines)
    assert "bytemq_level 7.5" in lines
    assert "# TYPE bytemq_read_total counter" in lines
    assert "bytemq_read_total 4.0" in lines
    assert 'bytemq_lag{group="g",partition="0"} 3.0' in lines
    assert 'bytemq_wait_seconds_bucket{api="FETCH",le="0.00025"} 0.0' in lines
    assert 'bytemq_wait_seconds_bucket{api="FETCH",le="0.0005"} 1.0' in lines
    assert 'bytemq_wait_seconds_bucket{api="FETCH",le="+Inf"} 2.0' in lines
    assert 'bytemq_wait_seconds_count{api="FETCH"} 2.0' in lines


def test_metrics__a_name_is_used_once() -> None:
    metrics = Metrics()
    metrics.counter("bytemq_x_total", "X")
    with pytest.raises(ValueError, match="exists"):
        metrics.gauge("bytemq_x_total", "X", lambda: 0)


def test_family__is_bounded_and_checks_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "MAX_CHILDREN", 3)
    family = Metrics().counters("bytemq_x_total", "X", "client")
    for number in range(10):
        family.labels(str(number)).value += 1
    assert len(list(family.items())) == 3
    assert family.labels("0") is family.labels("0")
    with pytest.raises(ValueError, match="labels"):
        family.labels("a", "b")
