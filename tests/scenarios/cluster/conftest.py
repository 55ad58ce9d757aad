"""A real etcd for each scenario, and nodes that keep their metadata in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster.cluster import Cluster
from tests.support.etcd_process import EtcdProcess


@pytest.fixture
def make_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdProcess]]:
    made: list[EtcdProcess] = []

    def make(**arguments: object) -> EtcdProcess:
        made.append(EtcdProcess(tmp_path / f"etcd-{len(made)}", **arguments))  # type: ignore[arg-type]
        return made[-1].start()

    yield make
    for process in made:
        process.close()


@pytest.fixture
def etcd(make_etcd: Callable[..., EtcdProcess]) -> EtcdProcess:
    return make_etcd()


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers in three zones, with the OPTIONS of the module, all of them running whenever a test begins and
    ends.
    """
    folder = tmp_path_factory.mktemp("cluster")
    etcd = EtcdProcess(folder / "etcd").start()
    made = Cluster(folder, etcd, options=getattr(request.module, "OPTIONS", ()))
    try:
        yield made.start()
    finally:
        made.close()
        etcd.close()
