"""Metrics for Prometheus: plain integers on the hot path, turned into Prometheus' form when somebody scrapes.

Owns names and exposition. Every name is documented in docs/metrics.md. prometheus-client is imported at the first
scrape: its import costs start-up time, and its own counters cost a lock for each increment.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Child = TypeVar("Child")
Sample = tuple[tuple[str, ...], float]  # label values, value

LATENCY_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Counter:
    """A number that only grows; `counter.value += n` is the whole interface."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Histogram:
    """Counts of observations per bucket; bounds in the unit that the name ends with (seconds)."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: (upper bound, observations at or below it)."""
        running, buckets = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets


class Family(Generic[Child]):
    """Counters or histograms of one name, told apart by label values. Keep what `labels` returns: that one is cheap."""

    __slots__ = ("_children", "_make", "documentation", "label_names", "name")
    MAX_CHILDREN = 10_000  # a bound, should label values ever come from clients

    def __init__(self, name: str, documentation: str, label_names: tuple[str, ...], make: Callable[[], Child]) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = label_names
        self._make = make
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            child = self._make()
            if len(self._children) < self.MAX_CHILDREN:
                self._children[values] = child
        return child

    def remove(self, *values: str) -> None:
        """What the labels stand for is gone (a topic was deleted)."""
        self._children.pop(values, None)

    def items(self) -> Iterable[tuple[tuple[str, ...], Child]]:
        return self._children.items()


class Metrics:
    """All metrics of one node."""

    def __init__(self) -> None:
        self._counters: list[Family[Counter]] = []
        self._gauges: list[tuple[str, str, tuple[str, ...], Callable[[], Iterable[Sample]]]] = []
        self._histograms: list[Family[Histogram]] = []
        self._names: set[str] = set()

    def counter(self, name: str, documentation: str) -> Counter:
        """A counter without labels. Names follow Prometheus: bytemq_<what>_<unit>_total."""
        return self.counters(name, documentation).labels()

    def counters(self, name: str, documentation: str, *label_names: str) -> Family[Counter]:
        family = Family(self._claim(name), documentation, label_names, Counter)
        self._counters.append(family)
        return family

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A value that is asked for at each scrape."""
        self.gauges(name, documentation, (), lambda: [((), read())])

    def gauges(
        self, name: str, documentation: str, label_names: tuple[str, ...], read: Callable[[], Iterable[Sample]]
    ) -> None:
        """Values with labels, asked for at each scrape; `read` must be quick: it runs on the event loop.

        A name that ends with _total is a count that only grows.
        """
        self._gauges.append((self._claim(name), documentation, label_names, read))

    def histogram(self, name: str, documentation: str) -> Histogram:
        return self.histograms(name, documentation).labels()

    def histograms(self, name: str, documentation: str, *label_names: str) -> Family[Histogram]:
        """Durations in seconds; names end with _seconds."""
        family = Family(self._claim(name), documentation, label_names, Histogram)
        self._histograms.append(family)
        return family

    def names(self) -> frozenset[str]:
        return frozenset(self._names)

    def collect(self) -> Iterator["Metric"]:
        """Prometheus' collector interface."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for family in self._counters:
            counter = CounterMetricFamily(family.name, family.documentation, labels=family.label_names)
            for values, child in family.items():
                counter.add_metric(values, child.value)
            yield counter
        for name, documentation, label_names, read in self._gauges:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            asked = kind(name, documentation, labels=label_names)
            for values, value in read():
                asked.add_metric(values, value)
            yield asked
        for durations in self._histograms:
            histogram = HistogramMetricFamily(durations.name, durations.documentation, labels=durations.label_names)
            for values, observed in durations.items():
                histogram.add_metric(values, observed.cumulative(), observed.total)
            yield histogram

    def render(self) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
        from prometheus_client.process_collector import ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        return CONTENT_TYPE_LATEST, generate_latest(registry)

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise ValueError(f"metric {name} exists")
        self._names.add(name)
        return name
