"""Finding the topics that the regular expressions of a group stand for, behind the heartbeats.

A slice at a time, so that neither a hundred thousand topics nor an expression that is made to be slow hold anybody up.
Looked at anew when topics come or go, and every group.consumer.regex.refresh.interval.ms.
"""

from __future__ import annotations

from collections.abc import Iterator

from bytemq.broker.coordinator.group.consumer.draft import Draft
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.records import RegexRecord, ResolvedRegex
from bytemq.broker.coordinator.group.consumer.regex import compile_regex
from bytemq.broker.coordinator.group.consumer.steps import refresh_epoch
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.expressions import SLICE_STEPS
from bytemq.protocol.error_codes import KafkaError

_PAUSE_MS = 5
"""After a slice; after one name that takes longer so many times more."""
_LEAST_REFRESH_MS = 10_000
"""Topics that are created one by one do not cost a look each."""


class Regexes:
    """Over the consumer groups of one shard."""

    __slots__ = ("_environment", "_running")

    def __init__(self, environment: GroupEnvironment) -> None:
        self._environment = environment
        self._running: dict[str, Iterator[dict[str, ResolvedRegex] | int]] = {}

    def is_wanted(self, group: ConsumerGroup, member_id: str) -> bool:
        """Whether the member's expression must be looked at: never was, or not since the cluster has changed."""
        regex = group.members[member_id].regex
        if not regex or group.group_id in self._running:
            return False
        resolved = group.regexes.get(regex)
        if resolved is None:
            return True
        age_ms = self._environment.wall_ms() - resolved.timestamp_ms
        if age_ms >= self._environment.consumer_settings(group.group_id).regex_refresh_interval_ms:
            return True
        return resolved.version != self._environment.topics.version and age_ms >= _LEAST_REFRESH_MS

    def resolve_soon(self, group_id: str) -> None:
        self._running[group_id] = self._resolve(group_id)
        self._environment.timers.schedule(("regex", group_id), 0, lambda: self._continue(group_id))

    def stop(self, group_id: str) -> None:
        self._running.pop(group_id, None)
        self._environment.timers.cancel(("regex", group_id))

    def _continue(self, group_id: str) -> Outcome[None]:
        running = self._running.get(group_id)
        group = self._environment.consumer_groups.get(group_id)
        if running is None or group is None:
            self._running.pop(group_id, None)
            return NOTHING
        resolved = next(running, {})
        if isinstance(resolved, int):
            self._environment.timers.schedule(("regex", group_id), resolved, lambda: self._continue(group_id))
            return NOTHING
        del self._running[group_id]
        return self._record(group, resolved)

    def _resolve(self, group_id: str) -> Iterator[dict[str, ResolvedRegex] | int]:
        """Gives milliseconds to wait after each slice, and in the end the topics by expression."""
        group = self._environment.consumer_groups.get(group_id)
        regexes = sorted({regex for _, regex in group.subscriptions() if regex}) if group is not None else []
        version, names = self._environment.topics.version, list(self._environment.topics.names())
        found: dict[str, list[str]] = {regex: [] for regex in regexes}
        steps = 0
        for regex in regexes:
            try:
                expression = compile_regex(regex)
            except KafkaError:
                continue  # stored by a broker whose expressions are not RE2's: it stands for no topics
            for name in names:
                if expression.matches(name):
                    found[regex].append(name)
                steps += expression.steps(name)
                if steps >= SLICE_STEPS:
                    yield _PAUSE_MS * (steps // SLICE_STEPS)
                    steps = 0
        now_ms = self._environment.wall_ms()
        yield {regex: ResolvedRegex(frozenset(topics), version, now_ms) for regex, topics in found.items()}

    def _record(self, group: ConsumerGroup, resolved: dict[str, ResolvedRegex]) -> Outcome[None]:
        with Draft(group) as draft:
            changed = False
            for regex, topics in resolved.items():
                if group.uses_regex(regex):
                    before = group.regexes.get(regex)
                    changed = changed or before is None or before.topics != topics.topics
                    draft.add(RegexRecord(group.group_id, regex, topics))
            if draft.records:
                refresh_epoch(draft, self._environment.topics, bump=changed)
        return Outcome(None, draft.records)
