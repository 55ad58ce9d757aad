"""The worker process: jobs, failures, deaths. Real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bytemq.compaction.worker import WORKER_PROCESS, Worker
from bytemq.errors import Corrupt, Unavailable
from bytemq.runtime.child_process import ChildProcess
from tests.support.worker_jobs import Break, Copy, Describe, LeaveSomething

MIB = 1024 * 1024


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker("test", f"file://{tmp_path}", memory_bytes=256 * MIB)
    yield worker
    await worker.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def is_alive(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The second one where it ends between opening and reading.
        return False


def open_sockets() -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # of the listing itself
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return count


async def test_worker__is_started_for_the_first_job_and_is_modest(worker: Worker) -> None:
    assert worker.process_id is None
    before = await worker.run(Describe())
    policy, niceness = before.pop("policy"), before.pop("nice")
    is_raised = policy == os.SCHED_OTHER and os.nice(0) <= niceness <= 10  # a machine on which even its start starves
    assert is_raised or (policy, niceness) == (os.SCHED_IDLE, 19)
    assert before == {"pid": worker.process_id, "oom_score_adj": 800, "memory_bytes": 256 * MIB}
    assert (await worker.run(Describe()))["pid"] == before["pid"]
    assert (worker.starts, worker.deaths) == (1, 0)


async def test_process__has_its_priority_before_it_has_imported_anything() -> None:
    child = await ChildProcess.start(WORKER_PROCESS, niceness=3)
    try:
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, child.process_id) == min(ours + 3, 19)
    finally:
        await child.kill()


async def test_process__keeps_its_memory_for_its_work_however_many_processors_there_are(worker: Worker) -> None:
    """NumPy's 40 MiB for each of them would be all that a worker may use, on 12."""
    process_id = (await worker.run(Describe()))["pid"]
    assert b"OPENBLAS_NUM_THREADS=1" in Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")  # noqa: ASYNC240


async def test_process__shares_processors_as_we_do_and_no_terminal(worker: Worker) -> None:
    """Niceness counts within a session, where the kernel groups by them."""
    process_id = (await worker.run(Describe()))["pid"]
    assert os.getsid(process_id) == os.getsid(0)
    assert os.getpgid(process_id) == process_id


async def test_worker__begun_again_finds_no_temporary_files_of_the_one_that_died(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch" / "worker"
    worker = Worker("test", f"file://{tmp_path}", memory_bytes=256 * MIB, scratch=scratch)
    assert await worker.run(LeaveSomething()) == str(scratch)
    assert len(list(scratch.iterdir())) == 1
    with pytest.raises(Unavailable, match="died"):
        await worker.run(Break("die"))
    await worker.run(Describe())
    assert list(scratch.iterdir()) == []
    await worker.close()


async def test_job__reads_and_creates_objects_and_says_which(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    created: list[str] = []
    assert await worker.run(Copy("a", copies=2), created) == 7
    assert created == ["a-0", "a-1"]
    assert (tmp_path / "a-1").read_bytes() == b"content"


async def test_job_that_fails__raises_the_same_here_and_the_process_lives(worker: Worker) -> None:
    with pytest.raises(Corrupt, match="what the job says"):
        await worker.run(Break("corrupt"))
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        await worker.run(Break("otherwise"))
    with pytest.raises(Unavailable, match="memory"):
        await worker.run(Break("memory"))
    assert (worker.starts, worker.deaths) == (1, 0)


async def test_process_that_dies__fails_its_job_and_is_replaced_for_the_next(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="died"):
        await worker.run(Break("die"))
    (tmp_path / "a").write_bytes(b"content")
    created: list[str] = []
    running = asyncio.ensure_future(worker.run(Copy("a", seconds=60), created))
    await until(lambda: created == ["a-0"])
    os.kill(worker.process_id or 0, signal.SIGKILL)
    with pytest.raises(Unavailable, match="died"):
        await running
    (tmp_path / "a-0").unlink(missing_ok=True)
    assert await worker.run(Copy("a")) == 7
    assert (worker.starts, worker.deaths) == (3, 2)


async def test_process_that_dies_between_jobs__leaves_nothing_open(worker: Worker) -> None:
    await worker.run(Describe())
    before = open_sockets()
    for _ in range(3):
        died = worker._process
        assert died is not None
        os.kill(died.process_id, signal.SIGKILL)
        await until(lambda died=died: died.has_ended)
        await worker.run(Describe())
        await until(lambda: open_sockets() <= before)
    assert (worker.starts, worker.deaths) == (4, 0)


async def test_cancelled_job__does_not_go_on(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    created: list[str] = []
    running = asyncio.ensure_future(worker.run(Copy("a", seconds=60), created))
    await until(lambda: bool(created))
    process_id = worker.process_id or 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_alive(process_id)
    assert (await worker.run(Describe()))["pid"] != process_id


async def test_jobs__wait_for_each_other(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    created: list[str] = []
    jobs = [worker.run(Copy("a", seconds=0.05), created), worker.run(Describe()), worker.run(Describe())]
    results: list[Any] = await asyncio.gather(*jobs)
    assert results[1]["pid"] == results[2]["pid"]
    assert worker.starts == 1


async def test_close__kills_a_job_in_the_middle(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    created: list[str] = []
    running = asyncio.ensure_future(worker.run(Copy("a", seconds=60), created))
    await until(lambda: bool(created))
    process_id = worker.process_id or 0
    await worker.close()
    assert not is_alive(process_id)
    with pytest.raises(Unavailable):
        await running
    with pytest.raises(Unavailable, match="closed"):
        await worker.run(Describe())


BROKER = """
import asyncio, sys
from bytemq.compaction.worker import Worker
from tests.support.worker_jobs import Copy

async def main():
    worker = Worker("test", sys.argv[1], memory_bytes=1 << 28)
    created = []
    running = asyncio.ensure_future(worker.run(Copy("a", seconds=60), created))
    while not created:
        await asyncio.sleep(0.01)
    print(worker.process_id, flush=True)
    await running

asyncio.run(main())
"""


async def test_worker__of_a_killed_broker_ends_in_the_middle_of_its_job(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    broker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BROKER, f"file://{tmp_path}", stdout=asyncio.subprocess.PIPE
    )
    assert broker.stdout is not None
    process_id = int(await broker.stdout.readline())
    assert is_alive(process_id)
    broker.kill()
    await broker.wait()
    await until(lambda: not is_alive(process_id))


async def test_idle_worker__ends_and_comes_back(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bytemq.compaction.worker.IDLE_S", 0.01)
    process_id = (await worker.run(Describe()))["pid"]
    await until(lambda: not is_alive(process_id))
    assert (await worker.run(Describe()))["pid"] != process_id
    assert worker.deaths == 0
