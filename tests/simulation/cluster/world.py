"""Two or three whole brokers over one object store and one metadata store, in virtual time.

The brokers, their clients and the checker are those of the world `broker`. What is other here: logs are in the real
storage of a cluster; sessions end when their leases were not renewed, or when another broker has doubted them for long
enough; the brokers elect a controller, which plans; a process may stand still for longer than its lease and go on in
the middle of a write; a broker may lose the store, the metadata, or both, while the others have them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.simulation.broker.loop import NOBODY, Process, SimulationLoop
from tests.simulation.broker.node import Node
from tests.simulation.broker.storages import NodeStorage, Objects, SharedStorage
from tests.simulation.broker.world import TARGET, World
from tests.simulation.cluster.witness import Witness

_PAUSES_S = (0.05, 1.5, 3.0)
_CUTS_S = (0.1, 0.7, 2.0)


class ClusterWorld(World):
    has_controllers = True
    session_ttl_s = 1.0
    calm_s = (0.02, 0.1, 0.3, 0.6)

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        super().__init__(seed, loop)
        self.broker_count = self.random.choice((2, 2, 3))
        self.patience_s = self.random.choice((0.6, 5.0))
        self.objects: Objects = {}
        self._stops_in_a_write = False
        self._witnesses = 0
        loop.paused = self._stands_still

    def storage_of(self, node: Node) -> NodeStorage:
        return SharedStorage(node, self.objects, self.sickness, partial(self.flush_written, node))

    def plan(self) -> None:
        """The brokers do it themselves."""

    def _end_session(self, node: Node) -> None:
        """Its lease does, unless it was renewed; at the end nobody need wait for that."""
        if self.is_over:
            super()._end_session(node)

    def _troubles(self) -> dict[Callable[[], None], int]:
        return super()._troubles() | {
            self._crash: 2,
            self._pause: 2,
            self._stop_in_a_write: 10,
            self._cut_off: 2,
            self._doubt: 3,
        }

    def _doubt(self) -> None:
        """A broker takes another one for dead, or has its session ended, whatever it does meanwhile."""
        serving = self.serving_nodes()
        if len(serving) > 1:
            doubting, doubted = self.random.sample(serving, 2)
            may_object = self.random.random() < 0.7
            if self.random.random() < 0.5:
                doubted.process.pauses, doubted.process.steps_left = True, self.random.randint(0, 40)
            else:
                doubted.metadata.deaf_until = self.loop.time() + self.random.choice((0.0, 1.5, 3.0))
                self._witness(doubted)
            self.history.note(f"{doubting.process.name} doubts {doubted.process.name}, {may_object=}")
            doubting.doubt(doubted.broker_id, may_object=may_object)

    def _witness(self, doubted: Node) -> None:
        """It hears nothing, and may answer for what it no longer has: somebody who knows better asks it."""
        owned = [each for each in self.partitions_of(TARGET) if doubted.owner_of(*each) == doubted.broker_id]
        if owned:
            self._witnesses += 1
            witness = Witness(self, f"witness {self._witnesses}", doubted, owned[0])
            self._background.append(self.start(witness.run()))

    def _pause(self) -> None:
        """At one of the next steps."""
        self._in_some_steps(pauses=True)

    def _stop_in_a_write(self) -> None:
        """Whoever writes next stands still, or dies, when a flush is in the store: before it is committed, or a little
        later.
        """
        self._stops_in_a_write = True

    def flush_written(self, node: Node) -> None:
        if self._stops_in_a_write and not self.is_well:
            self._stops_in_a_write = False
            node.process.pauses = self.random.random() < 0.7
            node.process.steps_left = self.random.randint(0, 6)

    def _stands_still(self, process: Process) -> None:
        pause_s = self.random.choice(_PAUSES_S)
        self.history.note(f"{process.name} stands still for {pause_s} s")
        self.loop.call_later(pause_s, self._go_on, process, context=NOBODY)

    def _go_on(self, process: Process) -> None:
        self.history.note(f"{process.name} goes on")
        self.loop.go_on(process)

    def _cut_off(self) -> None:
        """One broker can reach neither the store nor the metadata, or one of them."""
        node = self.random.choice(list(self.nodes.values()))
        cut = self.random.choice(((1.0, 1.0), (1.0, self.metadata_sickness), (self.sickness, 1.0)))
        self.history.note(f"{node.process.name}: storage fails {cut[0]:.0%}, metadata {cut[1]:.0%} of the time")
        node.storage.sickness, node.metadata.sickness = cut
        self.loop.call_later(self.random.choice(_CUTS_S), self._heal, node, context=NOBODY)

    def _heal(self, node: Node) -> None:
        node.storage.sickness, node.metadata.sickness = self.sickness, self.metadata_sickness
