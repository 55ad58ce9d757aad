"""How long what is done over all partitions of a large cluster keeps the loop of a broker from everything else.

    python -m benchmarks.many_partitions [--partitions 100000] [--drained 33000]

First the pure parts, one by one, for a cluster of three brokers: the longest step of each, and all steps together, in
milliseconds of a processor, so that a busy machine does not matter much. Then two owners on one loop, with the embedded
metadata, where one is drained by the other: how long any turn of the loop took. Nobody has opened the partitions, and
storage is a fake: what is told is what ownership itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import thread_time
from typing import Any

from bytemq.metadata import keys, values
from bytemq.metadata.claims import claims
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event, Put
from bytemq.scheduler.lateness import Lateness
from bytemq.scheduler.membership import Membership
from bytemq.scheduler.planner import late_owners, placed_partitions, plan, wishes_of
from bytemq.types import TopicId
from tests.support.fake_log_storage import Disk
from tests.support.metadata import broker_value, embedded_store, image_of, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock
from tests.unit.topics.test_moving import Member

TOPIC_PARTITIONS = 1_000
BROKERS = 3
CHUNKS_AT_ONCE = 100
"""Of wishes, as the controller writes them."""
LONG_MS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=100_000)
    parser.add_argument("--drained", type=int, default=33_000)
    options = parser.parse_args()
    gc.disable()  # a node collects when nothing else is to do
    steps(options.partitions)
    gc.collect()
    asyncio.run(drain(options.drained))


def chunks(count: int) -> Iterable[tuple[int, int]]:
    """Number and size of each."""
    for chunk in range(keys.chunk_count(count)):
        yield chunk, min(keys.CHUNK_PARTITIONS, count - chunk * keys.CHUNK_PARTITIONS)


def steps(count: int) -> None:
    puts: list[Put] = []
    topics = [topic_id(number) for number in range(count // TOPIC_PARTITIONS)]
    for number, topic in enumerate(topics):
        puts += topic_puts(f"t{number}", topic, [index % BROKERS for index in range(TOPIC_PARTITIONS)])
        for chunk, size in chunks(TOPIC_PARTITIONS):
            first = chunk * keys.CHUNK_PARTITIONS
            owners = [index % BROKERS for index in range(first, first + size)]
            facts = values.OwnersValue(
                owners, [1000 + one for one in owners], [3] * size, dict.fromkeys(range(size), 7)
            )
            puts.append(Put(keys.owners(topic, chunk), values.encode_owners(facts)))
    image: ClusterImage = told("the image of a listing", lambda: image_of(range(BROKERS), puts))
    told("the image when a session ends", lambda: image.apply([Event(keys.broker(0), None, 5000)]))
    wishes, moves = told("a plan for what it had", lambda: plan(image, topics))
    written = [
        Event(keys.assignments(one.topic_id, one.chunk), values.encode_assignments(one.brokers), 5001) for one in wishes
    ]
    told(f"the image of {CHUNKS_AT_ONCE} chunks of wishes", lambda: image.apply(written[:CHUNKS_AT_ONCE]))
    image.apply(written[CHUNKS_AT_ONCE:])
    told("claims of a broker", lambda: claims(image, 1, 1001, topics))
    late = told("who is late", lambda: late_owners(image))
    told("who is too late", lambda: Lateness().look(0.0, late))
    told("what the balancer sees", lambda: placed_partitions(image, {}, {}))
    back = [move._replace(source=move.target, target=1) for move in moves]
    told("wishes of a drain", lambda: wishes_of(image, back))


def told(name: str, work: Callable[[], Any]) -> Any:
    began = thread_time()
    result = work()
    took = [thread_time() - began]
    if hasattr(result, "send"):
        steps_of, result = result, None
        while True:
            began = thread_time()
            try:
                next(steps_of)
            except StopIteration as end:
                result = end.value
                took.append(thread_time() - began)
                break
            took.append(thread_time() - began)
    print(f"{name:40} longest {max(took) * 1000:6.1f} ms, all {sum(took) * 1000:6.1f} ms in {len(took)}", flush=True)
    return result


class Turns:
    """How long each turn of the loop takes."""

    def __init__(self) -> None:
        self._took: list[float] = []

    async def run(self) -> None:
        last = thread_time()
        while True:
            await asyncio.sleep(0)
            now = thread_time()
            self._took.append((now - last) * 1000)
            last = now

    def tell(self, name: str) -> None:
        took, self._took = self._took, []
        many = sum(one > LONG_MS for one in took)
        print(
            f"{name:40} longest turn {max(took):6.1f} ms, {many} above {LONG_MS:.0f} ms, all {sum(took) / 1000:.1f} s",
            flush=True,
        )


async def drain(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_store(Path(folder)) as store:
            clock, disk, turns = VirtualClock(), Disk(), Turns()
            ticking = asyncio.ensure_future(turns.run())
            owners = []
            for broker in (1, 2):
                membership = await Membership.join(store, clock, broker, broker_value(), 3.0)
                owners.append(Member(store, disk, membership, clock))
                await owners[-1].run()
            topics = [topic_id(number) for number in range(count // TOPIC_PARTITIONS)]
            for number, topic in enumerate(topics):
                await store.txn([], topic_puts(f"t{number}", topic, [1] * TOPIC_PARTITIONS))
            while held(owners[0], topics) < count:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0)
            turns.tell(f"{count:,} are taken")
            for topic in topics:
                wishes = [(chunk, values.encode_assignments([2] * size)) for chunk, size in chunks(TOPIC_PARTITIONS)]
                await store.txn([], [Put(keys.assignments(topic, chunk), value) for chunk, value in wishes])
            while held(owners[1], topics) < count:
                await asyncio.sleep(0.005)
                clock.advance(0.05)
            turns.tell("and drained")
            ticking.cancel()
            for owner in owners:
                await owner.close()


def held(owner: Member, topics: Iterable[TopicId]) -> int:
    return sum(len(owner.ownership._held.get(topic, {})) for topic in topics)


if __name__ == "__main__":
    main()
