"""What everything in a node rests on, once it has joined its cluster. Owns no behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import MetadataStore
from bytemq.node.live_config import LiveConfig
from bytemq.runtime.clock import Clock
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import Membership


@dataclass(slots=True, frozen=True)
class Foundation:
    config: LiveConfig
    store: MetadataStore
    follower: ImageFollower
    membership: Membership
    clock: Clock
    random: Random
    metrics: Metrics
    supervisor: Supervisor
    fail: Callable[[str, BaseException], None]
    """Called with the name of a part, and with what the node cannot live on after."""

    @property
    def image(self) -> ClusterImage:
        return self.follower.image

    @property
    def broker_id(self) -> int:
        return self.membership.broker_id
