"""Transcripts of consumer groups (KIP-848): what consumers do, what they are answered, in virtual time.

The format is that of group_transcript.py: blocks of steps, `----`, answers. To write down anew what is answered now:

    python -m tests.scenarios.consumer_transcript
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bytemq.broker.coordinator.group.consumer.description import describe_consumer_group
from bytemq.broker.coordinator.group.consumer.embedded_protocol import read_assignment
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.records import decode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from tests.scenarios.group_transcript import answered
from tests.unit.coordinator.classic_consumer import ClassicConsumer
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

FOLDER = Path(__file__).parent / "consumer_groups"
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Transcript:
    """Runs steps; `lines` collects the answers."""

    def __init__(self) -> None:
        self.world = ConsumerWorld(t=4, u=2)
        self.consumers: dict[str, Consumer] = {}
        self.classic: dict[str, ClassicConsumer] = {}
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
        """settings max_size=2 interval=0s"""
        consumer = ConsumerGroupSettings(
            max_size=int(options.get("max_size", "100")),
            assignment_interval_ms=_ms(options.get("interval", "1s")),
            session_timeout_ms=_ms(options.get("session", "45s")),
            upgrades=options.get("policy", "upgrade") in ("upgrade", "bidirectional"),
            downgrades=options.get("policy", "downgrade") in ("downgrade", "bidirectional"),
        )
        group = GroupSettings(
            consumer=consumer, initial_rebalance_delay_ms=0, max_size=int(options.get("classic_max_size", "100"))
        )
        self.world = ConsumerWorld(group, t=4, u=2)
        self.classic.clear()
        self._seen_log = 0

    def _topic(self, names: list[str], options: dict[str, str]) -> None:
        """topic v=3: created, or grown; topic v: deleted"""
        for name in names:
            self.world.topics.delete(name)
            self.world.gone.add(name)
        for name, count in options.items():
            self.world.topics.create(name, int(count))
        self.world.topics_changed()

    def _join(self, names: list[str], options: dict[str, str]) -> None:
        """join a [topics=t,u] [regex=] [assignor=] [instance=] [rebalance=] [id=]"""
        for name in names:
            consumer = Consumer(self.world, name, instance=options.get("instance"))
            consumer.member_id = options.get("id", name)
            consumer.topics = options.get("topics", "t").split(",")
            consumer.regex, consumer.assignor = options.get("regex"), options.get("assignor")
            consumer.rebalance_ms = _ms(options.get("rebalance", "60s"))
            consumer.slow = "slow" in options
            self.consumers[name] = consumer
            self._tell(name, consumer.heartbeat())

    def _subscribe(self, names: list[str], options: dict[str, str]) -> None:
        for name in names:
            self.consumers[name].topics = options["topics"].split(",")
            self._tell(name, self.consumers[name].heartbeat(full=True))

    def _heartbeat(self, names: list[str], options: dict[str, str]) -> None:
        """heartbeat a b [epoch=]"""
        for name in names:
            consumer = self.consumers[name]
            consumer.epoch = int(options.get("epoch", consumer.epoch))
            self._tell(name, consumer.heartbeat())

    def _slow(self, names: list[str], options: dict[str, str]) -> None:
        """slow a: does not give up what it is asked to, until quick a"""
        for name in names:
            self.consumers[name].slow = True

    def _quick(self, names: list[str], options: dict[str, str]) -> None:
        for name in names:
            self.consumers[name].slow = False
            self.consumers[name].give_up()

    def _lose(self, names: list[str], options: dict[str, str]) -> None:
        """lose a: a heartbeat whose answer never arrives"""
        for name in names:
            self.world.heartbeat(self.consumers[name].request(), name)

    def _leave(self, names: list[str], options: dict[str, str]) -> None:
        """leave a [epoch=-2]"""
        for name in names:
            self._tell(name, self.consumers[name].leave(int(options.get("epoch", "-1"))))

    def _remove(self, names: list[str], options: dict[str, str]) -> None:
        """An administrator removes members."""
        members = [MemberIdentity(name, None) for name in names]
        outcome = self.world.shard.leaving.leave(LeaveGroupRequest(group_id="g", members=members))
        for member in outcome.response.members:
            self._say(f"remove {member.member_id}: {ErrorCode(member.error_code).name}")
        self.world.submit(outcome)

    def _commit(self, names: list[str], options: dict[str, str]) -> None:
        """commit a t-0=5 [epoch=] [version=]; commit nobody t-0=5"""
        name = names[0]
        consumer = self.consumers.get(name)
        epoch = int(options.pop("epoch", consumer.epoch if consumer is not None else -1))
        version = int(options.pop("version", "9"))
        offsets = {_partition(key): int(value) for key, value in options.items()}
        member_id = consumer.member_id if consumer is not None else ""
        topic_ids = {topic.name: topic.topic_id for topic in map(self.world.topics.by_name, "tu") if topic is not None}
        for answer in self.world.commit(
            "g", offsets, member_id=member_id, generation=epoch, version=version, topic_ids=topic_ids
        ):
            if isinstance(answer, ErrorCode):
                self._say(f"{name} commit: {answer.name}")
            else:
                codes = {ErrorCode(p.error_code).name for topic in answer.topics for p in topic.partitions}
                self._say(f"{name} commit: {','.join(sorted(codes))}")

    def _id(self, names: list[str], options: dict[str, str]) -> None:
        """id x: JoinGroup of a classic client that has no id yet, and gets one"""
        for response in self.world.join("g", client=names[0]):
            self._say(f"{names[0]} id: {ErrorCode(response.error_code).name}")

    def _classic_join(self, names: list[str], options: dict[str, str]) -> None:
        """classic-join x y [topics=t,u] [instance=] [rebalance=] [cooperative=] [protocols=range,roundrobin]
        [id=]: JoinGroup
        """
        for name in names:
            client = self.classic.get(name)
            if client is None or "instance" in options:
                client = ClassicConsumer(
                    self.world, name, instance=options.get("instance"), cooperative="cooperative" in options
                )
                self.classic[name] = client
            client.topics = options["topics"].split(",") if "topics" in options else client.topics
            client.protocols = options["protocols"].split(",") if "protocols" in options else client.protocols
            client.rebalance_ms = _ms(options["rebalance"]) if "rebalance" in options else client.rebalance_ms
            client.join(member_id=options.get("id"))
        self._tell_classic(names)

    def _classic_sync(self, names: list[str], options: dict[str, str]) -> None:
        """classic-sync x y [protocol=]: SyncGroup; a leader assigns"""
        for name in names:
            self.classic[name].sync(options.get("protocol"))
        self._tell_classic(names)

    def _classic_heartbeat(self, names: list[str], options: dict[str, str]) -> None:
        for name in names:
            client = self.classic[name]
            code = client.heartbeat(int(options.get("generation", client.generation)))
            self._say(f"{name} heartbeat: {code.name}")

    def _classic_commit(self, names: list[str], options: dict[str, str]) -> None:
        """classic-commit x t-0=5 [generation=] [version=]"""
        client = self.classic[names[0]]
        generation = int(options.pop("generation", client.generation))
        version = int(options.pop("version", "8"))
        offsets = {_partition(key): int(value) for key, value in options.items()}
        for answer in self.world.commit(
            "g", offsets, member_id=client.member_id, generation=generation, version=version
        ):
            if isinstance(answer, ErrorCode):
                self._say(f"{names[0]} commit: {answer.name}")
            else:
                codes = {ErrorCode(p.error_code).name for topic in answer.topics for p in topic.partitions}
                self._say(f"{names[0]} commit: {','.join(sorted(codes))}")

    def _classic_leave(self, names: list[str], options: dict[str, str]) -> None:
        members = [MemberIdentity(self.classic[name].member_id, self.classic[name].instance) for name in names]
        outcome = self.world.shard.leaving.leave(LeaveGroupRequest(group_id="g", members=members))
        for name, member in zip(names, outcome.response.members, strict=True):
            self._say(f"{name} leave: {ErrorCode(member.error_code).name}")
        self.world.submit(outcome)

    def _told(self, names: list[str], options: dict[str, str]) -> None:
        """told x: what has arrived since"""
        self._tell_classic(names)

    def _offsets(self, names: list[str], options: dict[str, str]) -> None:
        found = self.world.fetch("g")
        self._say("offsets: " + (" ".join(f"{t}-{p}={o}" for (t, p), o in sorted(found.items())) or "none"))

    def _delete(self, names: list[str], options: dict[str, str]) -> None:
        outcome = self.world.shard.removal.delete_groups(["g"])
        self._say(f"delete group: {ErrorCode(outcome.response[0].error_code).name}")
        self.world.submit(outcome)

    def _advance(self, names: list[str], options: dict[str, str]) -> None:
        """advance 12s [a b ...]: these send a heartbeat every five seconds meanwhile"""
        remaining = _ms(names[0])
        while remaining > 0:
            step = min(remaining, 5_000)
            self.world.advance(step)
            remaining -= step
            for name in names[1:]:
                self._tell(name, self.consumers[name].heartbeat(), only_changes=True)

    def _hold(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = True

    def _release(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = False
        self.world.release()

    def _fail(self, names: list[str], options: dict[str, str]) -> None:
        self.world.hold = False
        self.world.fail()

    def _restart(self, names: list[str], options: dict[str, str]) -> None:
        self.world.restart()

    def _group(self, names: list[str], options: dict[str, str]) -> None:
        classic = self.world.shard.groups.get("g")
        if classic is not None and classic.members:
            self._say(f"classic group: {classic.state.value} generation={classic.generation_id}")
            for member_id, each in classic.members.items():
                has = self._named(read_assignment(each.assignment, self.world.topics))
                self._say(f"  {self._name(member_id)} has {has}")
            return
        described, members = describe_consumer_group(self.world.shard.environment, "g")
        if described.error_code:
            self._say(f"group: {described.error_message}")
            return
        epochs = f"epoch={described.group_epoch} target={described.assignment_epoch}"
        self._say(f"group: {described.group_state} {epochs} {described.assignor_name}")
        for member in members:
            has, should = (
                " ".join(sorted(f"{topic.topic_name}-{i}" for topic in each.topic_partitions for i in topic.partitions))
                for each in (member.assignment, member.target_assignment)
            )
            target = "" if has == should else f" (should have {should or 'nothing'})"
            who = self._name(member.member_id) + ("" if member.member_type else " classic")
            self._say(f"  {who} epoch={member.member_epoch} has {has or 'nothing'}{target}")

    def _log(self, names: list[str], options: dict[str, str]) -> None:
        """The records that came since the last look."""
        for key, value in self.world.log[self._seen_log :]:
            record = decode(key, value)
            who = f" {record.member_id}" if hasattr(record, "member_id") else ""
            self._say(f"log: {type(record).__name__}{who}{' tombstone' if value is None else ''}")
        self._seen_log = len(self.world.log)

    # -- answers

    def _name(self, member_id: str) -> str:
        """Classic members have ids that the coordinator made."""
        return next((name for name, each in self.classic.items() if each.member_id == member_id), member_id)

    def _named(self, partitions: Mapping[bytes, Iterable[int]]) -> str:
        named = []
        for topic_id, indexes in partitions.items():
            topic = self.world.topics.by_id(topic_id)
            named += [f"{topic.name}-{index}" for index in indexes] if topic is not None else []
        return " ".join(sorted(named)) or "nothing"

    def _tell_classic(self, names: list[str]) -> None:
        for name in names:
            client = self.classic[name]
            told, client.told = client.told, []
            for kind, code in told:
                if code is not ErrorCode.NONE:
                    self._say(f"{name} {kind}: {code.name}")
                elif kind == "join":
                    self._say(f"{name} join: generation={client.generation}{' leads' if client.leads else ''}")
                else:
                    self._say(f"{name} sync: {self._named(client.assigned)}")
            if not told:
                self._say(f"{name} waits")

    def _tell(
        self, name: str, answer: ConsumerGroupHeartbeatResponse | KafkaError | None, *, only_changes: bool = False
    ) -> None:
        if answer is None:
            self._say(f"{name} waits")
        elif isinstance(answer, KafkaError):
            self._say(f"{name} {answer.code.name}")
        elif answer.assignment is not None:
            names = [
                f"{topic.name}-{index}"
                for each in answer.assignment.topic_partitions
                if (topic := self.world.topics.by_id(each.topic_id)) is not None
                for index in each.partitions
            ]
            self._say(f"{name} epoch={answer.member_epoch}: {' '.join(sorted(names)) or 'nothing'}")
        elif not only_changes:
            self._say(f"{name} epoch={answer.member_epoch}")

    def _say(self, line: str) -> None:
        self.lines.append(line)


def replay(text: str) -> str:
    """The transcript with the answers that are given now."""
    return answered(text, Transcript())


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
