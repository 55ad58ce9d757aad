"""The worlds that can be simulated, by name, and the bugs that can be planted in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.broker import planted as broker_planted
from tests.simulation.broker import world as broker_world
from tests.simulation.broker.loop import SimulationLoop
from tests.simulation.broker.run import Run, simulate
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
from tests.simulation.transactions import planted as transactions_planted
from tests.simulation.transactions import world as transactions_world

Simulate = Callable[[int], tuple[list[str], BaseException | None]]
"""From a seed to the transcript of its run, and what went wrong."""


class PlantedBug(NamedTuple):
    plant: log_planted.Planted
    seed: int
    """One that finds it, for as long as nothing shifts what happens when. The search for it begins there."""


class World(NamedTuple):
    simulate: Simulate
    planted: dict[str, PlantedBug]


def _runs_of(kind: Callable[[int, SimulationLoop], Run]) -> Simulate:
    return lambda seed: simulate(seed, kind)


def _by_name(planted: dict[log_planted.Planted, int]) -> dict[str, PlantedBug]:
    return {plant.__name__: PlantedBug(plant, seed) for plant, seed in planted.items()}


WORLDS = {
    "log": World(log_world.simulate, _by_name(log_planted.PLANTED)),
    "broker": World(_runs_of(broker_world.World), _by_name(broker_planted.PLANTED)),
    "broker-transactions": World(_runs_of(broker_world.TransactionsWorld), _by_name(broker_planted.IN_TRANSACTIONS)),
    "cluster": World(_runs_of(ClusterWorld), _by_name(cluster_planted.PLANTED)),
    "compaction": World(compaction_world.simulate, _by_name(compaction_planted.PLANTED)),
    "cluster-storage": World(cluster_storage_world.simulate, _by_name(cluster_storage_planted.PLANTED)),
    "classic-groups": World(classic_groups_world.simulate, _by_name(classic_groups_planted.PLANTED)),
    "transactions": World(_runs_of(transactions_world.World), _by_name(transactions_planted.PLANTED)),
    "consumer-groups": World(consumer_groups_world.simulate, _by_name(consumer_groups_planted.PLANTED)),
}
