"""Which objects of this session nobody can publish any more, though the session lives.

Owns: from which number on what was made for a partition may still become part of its log. Must not: list or delete
anything.

Every change of a manifest compares the manifest's revision, which each opening changes, here or elsewhere. So what was
made before the partition was last opened here, or for one that somebody else has opened since, will never be published,
not even by a transaction that is still on its way. If no manifest names such an object, none ever will.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.object_names import ObjectNames, made_by
from bytemq.types import PartitionId


class Opening(NamedTuple):
    """The last one, of a partition that was not released since."""

    leader_epoch: int
    since: int
    """The number of what was begun next."""
    is_published: bool
    """False: it is under way, or came to nothing; nobody knows what will be published of it."""


class Ownership(NamedTuple):
    """As a manifest has it."""

    leader_epoch: int
    owner_session: int


class Settled(NamedTuple):
    """As of one moment. What manifests say must have been read after it."""

    session_id: int
    following: int
    openings: Mapping[str, Opening]
    """By folder of the partition."""

    def is_past_publishing(self, name: str, folder: str, ownership: Ownership | None) -> bool | None:
        """Of an object that the manifest of its partition, which has that folder, does not name. `ownership` is what
        the manifest says, None where there is none. Returns None when it cannot be told yet.
        """
        made = made_by(name)
        if made is None or made.session_id != self.session_id:
            return False
        opening = self.openings.get(folder)
        if opening is not None and opening.is_published:
            return made.number < opening.since
        if opening is None:
            is_over = ownership is None or ownership.owner_session != self.session_id
        else:
            is_over = ownership is not None and ownership.leader_epoch > opening.leader_epoch
        return made.number < self.following if is_over else None


class OwnObjects:
    def __init__(self, names: ObjectNames) -> None:
        self._names = names
        self._openings: dict[PartitionId, Opening] = {}

    def opening(self, partition: PartitionId, leader_epoch: int) -> Opening:
        """What is begun for the partition from here on may be published."""
        opening = self._openings[partition] = Opening(leader_epoch, self._names.following, is_published=False)
        return opening

    def opened(self, partition: PartitionId, opening: Opening) -> None:
        """Its manifest is published."""
        if self._openings.get(partition) is opening:
            self._openings[partition] = opening._replace(is_published=True)

    def released(self, partition: PartitionId) -> None:
        self._openings.pop(partition, None)

    def settled(self) -> Settled:
        openings = {directory_of(partition): opening for partition, opening in self._openings.items()}
        return Settled(self._names.session_id, self._names.following, openings)
