"""One partition as a broker holds it: a state, and what has to be done next. Pure.

Owns: the states, and the table of what follows from a state and from what the metadata say. Must not: do it.

What is held is compared with the *facts* as the image shows them, whenever something has changed and after each thing
that was done. So nothing has to be remembered but the state, whatever happens meanwhile.

    state         OURS          UNWANTED      NOT_OURS      GONE
    ABSENT        TAKE          TAKE          -             -
    TAKEN         COORDINATE    LEAVE         CLOSE         DELETE
    SERVED        -             LEAVE         CLOSE         DELETE
    STUCK         TAKE          LEAVE         CLOSE         DELETE
    LEFT          HAND_OVER     HAND_OVER     FORGET        FORGET

    done          it worked     it failed
    TAKE          TAKEN (of a topic that is coordinated here), else SERVED
    COORDINATE    SERVED        TAKEN
    LEAVE         LEFT          STUCK
    HAND_OVER     LEFT, until the facts say otherwise
    CLOSE         ABSENT        STUCK
    DELETE        ABSENT        STUCK
    FORGET        ABSENT

An ownership is a session's at one leader epoch: what is held under another one than that of the facts is NOT_OURS, and
then taken anew. What was LEFT and shall stay after all is handed over to nobody, and claimed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import Final

from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.types import PartitionId


class State(Enum):
    ABSENT = auto()
    """Nothing is held."""
    TAKEN = auto()
    """Clients are served; whoever coordinates what it is about here has not been told yet."""
    SERVED = auto()
    STUCK = auto()
    """Nobody is served, and storage has not let go of it yet: it could not, or that was called off."""
    LEFT = auto()
    """Closed for good, and ours in the metadata until they are told."""


class Fact(IntEnum):
    """Columns of the table."""

    OURS = 0
    UNWANTED = 1
    """Ours, and wished to be at another broker that lives."""
    NOT_OURS = 2
    GONE = 3
    """The topic is deleted."""


class Step(Enum):
    NOTHING = auto()
    TAKE = auto()
    COORDINATE = auto()
    LEAVE = auto()
    """Close it for good, when it is its turn."""
    HAND_OVER = auto()
    CLOSE = auto()
    DELETE = auto()
    FORGET = auto()


class Holding:
    """A partition that a broker has something of."""

    __slots__ = ("end_offset", "leader_epoch", "pid", "state", "topic")

    def __init__(self, pid: PartitionId, topic: TopicImage) -> None:
        self.pid = pid
        self.topic = topic
        """As it was when the partition was last configured."""
        self.state = State.ABSENT
        self.leader_epoch = -1
        self.end_offset = -1
        """Of the log that was LEFT; -1 where the session never opened it."""

    @property
    def is_served(self) -> bool:
        return self.state in (State.TAKEN, State.SERVED)


_TABLE: Final[Mapping[State, tuple[Step, Step, Step, Step]]] = {
    State.ABSENT: (Step.TAKE, Step.TAKE, Step.NOTHING, Step.NOTHING),
    State.TAKEN: (Step.COORDINATE, Step.LEAVE, Step.CLOSE, Step.DELETE),
    State.SERVED: (Step.NOTHING, Step.LEAVE, Step.CLOSE, Step.DELETE),
    State.STUCK: (Step.TAKE, Step.LEAVE, Step.CLOSE, Step.DELETE),
    State.LEFT: (Step.HAND_OVER, Step.HAND_OVER, Step.FORGET, Step.FORGET),
}


def next_step(holding: Holding, fact: Fact, leader_epoch: int) -> Step:
    """`fact` and `leader_epoch`: as of `fact_of`."""
    is_another = holding.leader_epoch != leader_epoch and fact is not Fact.GONE and holding.state is not State.ABSENT
    return _TABLE[holding.state][Fact.NOT_OURS if is_another else fact]


def fact_of(image: ClusterImage, pid: PartitionId, session_id: int) -> tuple[Fact, int]:
    """What the image says of a partition to the session, and the leader epoch under which it is its own, or -1."""
    topic = image.topics_by_id.get(pid.topic_id)
    if topic is None:
        return Fact.GONE, -1
    partition = topic.partitions[pid.index]
    if partition.session != session_id or partition.owner < 0:
        return Fact.NOT_OURS, -1
    is_wished_elsewhere = partition.assigned != partition.owner and partition.assigned in image.brokers
    return Fact.UNWANTED if is_wished_elsewhere else Fact.OURS, partition.leader_epoch
