"""The worlds that can be simulated, by name, and the bugs that can be planted in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.broker import planted as broker_planted
from tests.simulation.broker import world as broker_world
from tests.simulation.classic_groups import planted as classic_groups_planted
from tests.simulation.classic_groups import world as classic_groups_world
from tests.simulation.cluster import planted as cluster_planted
from tests.simulation.cluster.world import ClusterWorld
from tests.simulation.cluster_storage import planted as cluster_storage_planted
from tests.simulation.cluster_storage import world as cluster_storage_world
from tests.simulation.compaction import planted as compaction_planted
from tests.simulation.compaction import world as compaction_world
from tests.simulation.consumer_groups import planted as consumer_groups_planted
from tests.simulation.consumer_groups import world as consumer_groups_world
from tests.simulation.log import planted as log_planted
from tests.simulation.log import world as log_world

Simulate = Callable[[int], tuple[list[str], BaseException | None]]
"""From a seed to the transcript of its run, and what went wrong."""


class World(NamedTuple):
    simulate: Simulate
    planted: dict[str, log_planted.Planted]
    seeds_in_ci: int
    """About 15 seconds of one core each."""


def _transactions(seed: int) -> tuple[list[str], BaseException | None]:
    return broker_world.simulate(seed, broker_world.TransactionsWorld)


def _cluster(seed: int) -> tuple[list[str], BaseException | None]:
    return broker_world.simulate(seed, ClusterWorld)


def _by_name(planted: tuple[log_planted.Planted, ...]) -> dict[str, log_planted.Planted]:
    return {each.__name__: each for each in planted}  # type: ignore[attr-defined]


WORLDS = {
    "log": World(log_world.simulate, _by_name(log_planted.PLANTED), 2200),
    "broker": World(broker_world.simulate, _by_name(broker_planted.PLANTED), 600),
    "transactions": World(_transactions, _by_name(broker_planted.IN_TRANSACTIONS), 100),
    "cluster": World(_cluster, _by_name(cluster_planted.PLANTED), 80),
    "compaction": World(compaction_world.simulate, _by_name(compaction_planted.PLANTED), 700),
    "cluster-storage": World(cluster_storage_world.simulate, _by_name(cluster_storage_planted.PLANTED), 250),
    "classic-groups": World(classic_groups_world.simulate, _by_name(classic_groups_planted.PLANTED), 800),
    "consumer-groups": World(consumer_groups_world.simulate, _by_name(consumer_groups_planted.PLANTED), 450),
}
