"""Whether a store can do what everything durable relies on: tried out, not believed.

Owns: the checks, and the sentence that says what is wrong. Must not: leave anything behind in the store, as far as that
can be helped.

Run at a start and by `bytemq doctor`. A store that fails loses data sooner or later, so nothing starts on it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from bytemq.errors import BytemqError, Invalid, NotFound, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.storage.stores.interface import ObjectStore

FOLDER = "self-test/"
RIVALS = 4
"""Writers that try to create one name at the same time."""
OBJECT_BYTES = 64 * 1024


class SelfTest(NamedTuple):
    """What was measured, in ms. A write is what an acknowledgement has to wait for at least."""

    write_ms: float
    read_ms: float
    list_ms: float

    def __str__(self) -> str:
        return ", ".join(f"{name.removesuffix('_ms')} {ms:.0f} ms" for name, ms in self._asdict().items())


async def self_test(store: ObjectStore, clock: Clock, unique: str) -> SelfTest:
    """`unique` tells this run from every other one. Raises Invalid with a sentence for the user, Unavailable."""
    folder = f"{FOLDER}{unique}/"
    name = f"{folder}created"
    try:
        return await _run(store, clock, folder, name)
    except Unavailable as error:
        raise Unavailable(f"the storage does not answer as it should: {error}") from error
    finally:
        with suppress(BytemqError):  # the run has failed with more to say, or garbage collection finds it
            await store.delete([name])


async def _run(store: ObjectStore, clock: Clock, folder: str, name: str) -> SelfTest:
    contents = [bytes([number]) * OBJECT_BYTES for number in range(RIVALS)]
    started = clock.monotonic()
    outcomes = await asyncio.gather(*(store.create(name, [data]) for data in contents), return_exceptions=True)
    write_ms = (clock.monotonic() - started) * 1000 / RIVALS
    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Invalid):
            raise outcome
    if not winners:
        raise Invalid(f"the storage does not let us create objects: {outcomes[0]}")
    if len(winners) > 1:
        raise _unfit(f"{len(winners)} of {RIVALS} writers created the same name at the same time")
    started = clock.monotonic()
    try:
        data = await store.read(name)
    except NotFound as error:
        raise _unfit("an object cannot be read right after it was written") from error
    read_ms = (clock.monotonic() - started) * 1000
    if data != contents[winners[0]]:
        raise _unfit("an object was overwritten, or is read as something else than was written")
    try:
        await store.create(name, [b"other"])
    except Invalid:
        pass
    else:
        raise _unfit("an object that exists can be created again")
    file = await store.open_read(name)
    part = bytes(await file.read(OBJECT_BYTES - 10, 100))
    await file.close()
    if part != data[-10:]:
        raise _unfit("a part of an object is not what was written")
    started = clock.monotonic()
    listed = [info for info in await store.list(folder) if info.name == name]
    list_ms = (clock.monotonic() - started) * 1000
    if [info.size_bytes for info in listed] != [OBJECT_BYTES]:
        raise _unfit("an object that was written is not listed with its size")
    await store.delete([name])
    try:
        await store.read(name)
    except NotFound:
        return SelfTest(write_ms, read_ms, list_ms)
    raise _unfit("an object can be read after it was deleted")


def _unfit(why: str) -> Invalid:
    return Invalid(f"this storage cannot be used: {why}. Choose another one, or a newer version of its server.")
