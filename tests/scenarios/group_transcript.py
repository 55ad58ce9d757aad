"""The language of the transcripts in tests/scenarios/groups/: what clients do, and what the coordinator answers.

A transcript is a list of steps; below `----` is everything that was answered meanwhile. Times are virtual. Clients are
called by a letter; the transcript keeps their member ids and generations, as a client would. Run

    python -m tests.scenarios.group_transcript

to write down anew what is answered now; then read the difference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from bytemq.broker.coordinator.group.environment import GroupSettings
from bytemq.broker.coordinator.group.records import GroupMetadataRecord, OffsetCommitRecord, decode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from bytemq.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from bytemq.protocol.messages.sync_group import SyncGroupResponse
from tests.unit.coordinator.group_world import GroupWorld, subscription

FOLDER = Path(__file__).parent / "groups"
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Client:
    """What a consumer remembers."""

    def __init__(self) -> None:
        self.member_id = ""
        self.generation = -1
        self.instance: str | None = None
        self.options: dict[str, str] = {}


class Transcript:
    """Runs steps; `lines` collects the answers."""

    def __init__(self) -> None:
        self.world = GroupWorld()
        self.clients: dict[str, Client] = {}
        self.lines: list[str] = []
        self._seen_log = 0

    def run(self, step: str) -> None:
        verb, *words = step.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        run: Callable[[list[str], dict[str, str]], None] = getattr(self, f"_{verb.replace('-', '_')}")
        run(names, options)

    # -- steps

    def _settings(self, names: list[str], options: dict[str, str]) -> None:
        settings: dict[str, Any] = {key: _ms(value) for key, value in options.items()}
        self.world = GroupWorld(GroupSettings(**settings))

    def _join(self, names: list[str], options: dict[str, str]) -> None:
        """join a [new] [version=] [instance=] [topics=] [protocols=] [session=] [rebalance=] [type=] [group=] [id=]"""
        name = names[0]
        client = self.clients.setdefault(name, Client())
        client.options = options = {**client.options, **options}
        if "new" in names:
            client.member_id = ""
        client.instance = options.get("instance")
        member_id = options.pop("id", client.member_id)
        topics = options.get("topics", "t").split(",")
        protocols = options.get("protocols", "range").split(",")
        self.world.join(
            options.get("group", "g"),
            member_id,
            client=name,
            version=int(options.get("version", "9")),
            instance=client.instance,
            protocols={protocol: subscription(*topics) for protocol in protocols if protocol},
            protocol_type=options.get("type", "consumer"),
            session_ms=_ms(options.get("session", "10s")),
            rebalance_ms=_ms(options.get("rebalance", "60s")),
            reply=lambda response: self._joined(name, client, response),
        )

    def _joined(self, name: str, client: Client, response: JoinGroupResponse) -> None:
        if response.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            client.member_id = response.member_id
        if response.error_code:
            self._say(
                f"{name} join: {_error(response.error_code)}"
                + (f" id={response.member_id}" if response.member_id else "")
            )
            return
        client.member_id, client.generation = response.member_id, response.generation_id
        text = f"{name} join: {response.member_id} generation={response.generation_id} leader={response.leader}"
        text += f" protocol={response.protocol_name}"
        if response.members:
            text += " members=" + ",".join(sorted(member.member_id for member in response.members))
        self._say(text + (" skip assignment" if response.skip_assignment else ""))

    def _sync(self, names: list[str], options: dict[str, str]) -> None:
        """sync a [a=t-0,t-1] [b=t-2] [generation=]: what the leader assigns, by client"""
        name = names[0]
        client = self.clients[name]
        generation = int(options.pop("generation", client.generation))
        assignment = {
            self.clients[key].member_id: value.encode() for key, value in options.items() if key in self.clients
        }

        def synced(response: SyncGroupResponse) -> None:
            share = bytes(response.assignment).decode() or "nothing"
            self._say(f"{name} sync: {_error(response.error_code) if response.error_code else share}")

        group_id = client.options.get("group", "g")
        self.world.sync(group_id, client.member_id, generation, assignment, instance=client.instance, reply=synced)

    def _heartbeat(self, names: list[str], options: dict[str, str]) -> None:
        for name in names:
            client = self.clients[name]
            request = HeartbeatRequest(
                group_id=client.options.get("group", "g"),
                generation_id=int(options.get("generation", client.generation)),
                member_id=options.get("id", client.member_id),
                group_instance_id=client.instance,
            )
            self._say(f"{name} heartbeat: {self.world.shard.syncing.heartbeat(request).name}")

    def _leave(self, names: list[str], options: dict[str, str]) -> None:
        """leave a b, or leave instance=i"""
        members = [MemberIdentity(self.clients[name].member_id, self.clients[name].instance) for name in names]
        if "instance" in options:
            members.append(MemberIdentity("", options["instance"]))
        outcome = self.world.shard.leaving.leave(LeaveGroupRequest(group_id="g", members=members))
        for member in outcome.response.members:
            self._say(f"leave {member.member_id or member.group_instance_id}: {_error(member.error_code)}")
        self.world.submit(outcome)

    def _commit(self, names: list[str], options: dict[str, str]) -> None:
        """commit a t-0=5, or commit nobody t-0=5 for a simple consumer"""
        name = names[0]
        client = self.clients.get(name, Client())
        generation = int(options.pop("generation", client.generation))
        version, retention = int(options.pop("version", "9")), _ms(options.pop("retention", "-1ms"))
        answers = self.world.commit(
            options.pop("group", client.options.get("group", "g")),
            {_partition(key): int(value) for key, value in options.items()},
            member_id=client.member_id,
            generation=generation,
            version=version,
            retention_ms=retention,
            instance=client.instance,
        )
        told: list[Any] = [*answers] or ["waits"]
        for answer in told:
            if isinstance(answer, ErrorCode):
                self._say(f"{name} commit: {answer.name}")
            elif isinstance(answer, str):
                self._say(f"{name} commit: {answer}")
            else:
                codes = {_error(p.error_code) for topic in answer.topics for p in topic.partitions}
                self._say(f"{name} commit: {','.join(sorted(codes))}")

    def _fetch(self, names: list[str], options: dict[str, str]) -> None:
        found = self.world.fetch(options.get("group", "g"))
        self._say("offsets: " + (" ".join(f"{t}-{p}={o}" for (t, p), o in sorted(found.items())) or "none"))

    def _delete_offsets(self, names: list[str], options: dict[str, str]) -> None:
        topics = [
            OffsetDeleteRequestTopic(topic, [OffsetDeleteRequestPartition(partition)])
            for topic, partition in map(_partition, names)
        ]
        try:
            outcome = self.world.shard.offsets.delete(OffsetDeleteRequest(group_id="g", topics=topics))
        except KafkaError as error:
            self._say(f"delete offsets: {error.code.name}")
            return
        for topic in outcome.response.topics:
            for partition in topic.partitions:
                self._say(f"delete {topic.name}-{partition.partition_index}: {_error(partition.error_code)}")
        self.world.submit(outcome)

    def _delete(self, names: list[str], options: dict[str, str]) -> None:
        outcome = self.world.shard.removal.delete_groups(names)
        for result in outcome.response:
            self._say(f"delete group {result.group_id}: {_error(result.error_code)}")
        self.world.submit(outcome)

    def _topic_deleted(self, names: list[str], options: dict[str, str]) -> None:
        self.world.gone.update(names)

    def _advance(self, names: list[str], options: dict[str, str]) -> None:
        self.world.advance(_ms(names[0]))

    def _hold(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = True

    def _release(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = False
        self.world.release()

    def _fail(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = False
        self.world.fail(ErrorCode[names[0]] if names else ErrorCode.KAFKA_STORAGE_ERROR)

    def _restart(self, names: list[str], options: dict[str, str]) -> None:
        self.world.restart()

    def _groups(self, names: list[str], options: dict[str, str]) -> None:
        for group in self.world.shard.groups.values():
            members = " ".join(sorted(group.members)) or "nobody"
            pending = f" pending={','.join(sorted(group.pending_join))}" if group.pending_join else ""
            self._say(
                f"group {group.group_id}: {group.state.value} generation={group.generation_id}: {members}{pending}"
            )
        if not self.world.shard.groups:
            self._say("no groups")

    def _log(self, names: list[str], options: dict[str, str]) -> None:
        """The records that came since the last look."""
        for key, value in self.world.log[self._seen_log :]:
            record = decode(key, value)
            if isinstance(record, OffsetCommitRecord):
                what = "tombstone" if value is None else "offset"
                self._say(f"log: {record.group_id} {record.topic}-{record.partition} {what}")
            elif isinstance(record, GroupMetadataRecord) and record.metadata is None:
                self._say(f"log: {record.group_id} tombstone")
            elif isinstance(record, GroupMetadataRecord) and record.metadata is not None:
                members = ",".join(sorted(member.member_id for member in record.metadata.members))
                self._say(f"log: {record.group_id} generation {record.metadata.generation} members={members or 'none'}")
        self._seen_log = len(self.world.log)

    def _say(self, line: str) -> None:
        self.lines.append(line)


def replay(text: str) -> str:
    """The transcript with the answers that are given now."""
    return answered(text, Transcript())


class Runs(Protocol):
    lines: list[str]

    def run(self, step: str) -> None: ...


def answered(text: str, transcript: Runs) -> str:
    """Its blocks of steps, each with what `transcript` says to them."""
    written: list[str] = []
    for steps in blocks(text):
        transcript.lines = []
        for line in steps:
            if line.strip() and not line.startswith("#"):
                transcript.run(line)
        answers = transcript.lines or ["(nothing)"]
        written.append("\n".join([*steps, "----", *answers]))
    return "\n\n".join(written) + "\n"


def blocks(text: str) -> Iterator[list[str]]:
    """The steps of each block, with their comments, without the answers."""
    for block in text.strip().split("\n\n"):
        steps, _, _ = block.partition("\n----")
        yield steps.splitlines()


def _error(code: int) -> str:
    return ErrorCode(code).name


def _partition(text: str) -> tuple[str, int]:
    topic, _, index = text.rpartition("-")
    return topic, int(index)


def _ms(text: str) -> int:
    number = text.rstrip("dhms")
    return int(number) * _UNITS_MS[text[len(number) :] or "ms"]


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.txt")):
        path.write_text(replay(path.read_text()))
        sys.stdout.write(f"{path.name}\n")
