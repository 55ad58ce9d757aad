"""Reading what `reading` planned: the ranges of files that one read needs, at once.

Owns: that none of the files is released while another is read. Must not: know which bytes are the log (`reading`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bytemq.errors import Corrupt
from bytemq.storage.reading import Plan, Read, Run, assemble


async def read_planned(plan: Plan, offset: int, max_bytes: int, end_offset: int, at_least_one: bool) -> Read:
    """See `reading.assemble`. What looks damaged is read once more from the store itself."""
    try:
        return assemble(plan, await read_runs(plan.runs), offset, max_bytes, end_offset, at_least_one)
    except Corrupt:  # maybe not in the store
        for run in plan.runs:
            run.file.forget_copies()
        return assemble(plan, await read_runs(plan.runs), offset, max_bytes, end_offset, at_least_one)


def read_planned_cached(plan: Plan, offset: int, max_bytes: int, end_offset: int, at_least_one: bool) -> Read | None:
    """None when something of it is not in the page cache."""
    data = []
    for run in plan.runs:
        view = run.file.read_cached(run.position, run.size_bytes)
        if view is None:
            return None
        data.append(view)
    return assemble(plan, data, offset, max_bytes, end_offset, at_least_one)


async def read_runs(runs: Sequence[Run]) -> Sequence[memoryview]:
    """At the same time: on an object store each may be an object of its own, as those of small flushes are. None is
    being read any more when this returns or raises. Raises Corrupt where a file is too short.
    """
    for run in runs:  # all at once: while one is read, another one's file could be released
        run.file.pin()
    try:
        data = await _read_each(runs)
    finally:
        for run in runs:
            run.file.unpin()
    for run, view in zip(runs, data, strict=True):
        if len(view) < run.size_bytes:
            raise Corrupt(f"{run.file.file.name} ends before position {run.position + run.size_bytes}")
    return data


async def _read_each(runs: Sequence[Run]) -> Sequence[memoryview]:
    if len(runs) == 1:
        return [await runs[0].file.read(runs[0].position, runs[0].size_bytes)]
    reads = (run.file.read(run.position, run.size_bytes) for run in runs)
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, memoryview)]
