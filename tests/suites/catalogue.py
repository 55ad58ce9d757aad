"""The suites: whose, at which commit, what each needs, and how its own runner is started.

A suite's sources are a checkout of its repository, as its authors left it, in SOURCES/NAME. Nothing in there is
changed; where a suite starts its own brokers (in Docker, or Java ones), a plugin of ours starts the server instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.interop.kafka_process import INTEROP
from tests.suites.results import Results, named, of_junit, of_librdkafka, sum_of
from tests.suites.serve import RACK, make_server
from tests.support.java import fetch_jars

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = Path(__file__).resolve().parent / "plugins"

QUICK_REBALANCES = {"group.initial.rebalance.delay.ms": "0"}


class Run(NamedTuple):
    """One run of one suite."""

    kind: str
    """The server: bytemq or kafka."""
    sources: Path
    work: Path
    """A folder of the run's own."""
    python: Path
    """The interpreter of a virtual environment with the suite's requirements."""
    only: Sequence[str]
    """Which tests, in the suite's own terms; all if empty."""


class Suite(NamedTuple):
    name: str
    repository: str
    commit: str
    requirements: Sequence[str]
    run: Callable[[Run], Results]


def kafka_python(run: Run) -> Results:
    """Its integration tests; each module starts a broker. 4.3 is the newest version that it can tell."""
    environment = {**_serving(run), "KAFKA_VERSION": "4.3.0", "KAFKA_ROOT": str(run.work)}
    return _pytest(run, run.sources, ["-p", "kafka_python_brokers"], run.only or ["test/integration"], environment)


def aiokafka(run: Run) -> Results:
    """All of it, beside its installed package of the same version: the checkout's own has no compiled parts."""
    folder = run.work / "suite"
    shutil.copytree(run.sources / "tests", folder / "tests")
    for name in ("pyproject.toml", "gen-ssl-certs.sh"):
        shutil.copy(run.sources / name, folder)
    options = ["-p", "aiokafka_brokers", "--docker-image", "server:2.13_4.4.0", "--no-pull"]
    return _pytest(run, folder, options, run.only or ["tests"], _serving(run))


def confluent_kafka_python(run: Run) -> Results:
    """Its integration tests, but for those of the Schema Registry."""
    folder = run.work / "suite"
    shutil.copytree(run.sources / "tests", folder / "tests")
    left_out = ("schema_registry", "serialization", "share_consumer", "share_consumer_oauth", "share_consumer_sasl")
    options = [f"--ignore=tests/integration/{name}" for name in left_out]
    server = make_server(run.kind, run.work / "server", None, QUICK_REBALANCES)
    try:
        server.start()
        environment = {"BROKERS": server.bootstrap}
        return _pytest(run, folder, [*options, "--timeout=120"], run.only or ["tests/integration"], environment)
    finally:
        server.close()


def librdkafka(run: Run) -> Results:
    """Its test program, the tests that need a broker; built on the first run. Classic groups."""
    return _librdkafka(run, {})


def librdkafka_consumer_protocol(run: Run) -> Results:
    """The same with groups of KIP-848."""
    return _librdkafka(run, {"TEST_CONSUMER_GROUP_PROTOCOL": "consumer"})


_ADMIN_WITHOUT_SECURITY = (
    "unclean_destroy",
    "CreateTopics",
    "DeleteTopics",
    "CreatePartitions",
    "AlterConfigs",
    "IncrementalAlterConfigs",
    "DescribeConfigs",
    "DeleteRecords",
    "ListConsumerGroups",
    "DescribeConsumerGroups:",
    "DescribeTopics",
    "DescribeCluster",
    "DeleteGroups",
    "DeleteConsumerGroupOffsets",
    "ListOffsets",
    "AlterConsumerGroupOffsets",
    "ListConsumerGroupOffsets",
)
"""The sub-tests of 0081 that need neither ACLs nor SCRAM, as its own variable selects them."""


def librdkafka_admin(run: Run) -> Results:
    """0081, which tests the whole admin client and stops for good at its first ACL, one kind of sub-test at a time."""
    kinds = run.only or _ADMIN_WITHOUT_SECURITY
    return _librdkafka(run._replace(only=["0081"]), {}, [{"SUBTESTS": f"do_test_{kind}"} for kind in kinds])


_OF_KAFKA = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
}
"""What bytemq need not be told, or has not."""


def _librdkafka(run: Run, environment: Mapping[str, str], rounds: Sequence[Mapping[str, str]] = ({},)) -> Results:
    """Once for each of `rounds`, environments that select sub-tests, against one server."""
    program = run.sources / "tests" / "test-runner"
    if not program.exists():
        for command in (["./configure"], ["make", "-j2", "libs"], ["make", "-j2", "-C", "tests", "build"]):
            subprocess.run(command, cwd=run.sources, check=True, stdin=subprocess.DEVNULL)
    settings = {
        "num.partitions": "4",
        "auto.create.topics.enable": "true",
        "group.initial.rebalance.delay.ms": "3000",
        RACK: "RACK1",
        **(_OF_KAFKA if run.kind == "kafka" else {}),
    }
    server = make_server(run.kind, run.work / "server", None, settings)
    folder = run.work / "suite" / "tests"
    folder.mkdir(parents=True)
    (folder.parent / "src").symlink_to(run.sources / "src")
    shutil.copytree(run.sources / "tests" / "java", folder / "java")  # 0098 compiles and runs it, by make
    (folder / "Makefile").write_text(".PHONY: java\njava:\n\t$(MAKE) -C java\n")
    configuration = folder / "test.conf"
    try:
        server.start()
        configuration.write_text(f"bootstrap.servers={server.bootstrap}\ntest.timeout.multiplier=2\n")
        everything = {
            **os.environ,
            "RDKAFKA_TEST_CONF": str(configuration),
            "TEST_KAFKA_VERSION": "4.1.0",  # from 4.2 on it tests share groups
            "BROKERS": server.bootstrap,
            "KAFKA_PATH": str(_kafka_scripts(run.work / "kafka")),
            "LD_LIBRARY_PATH": f"{run.sources / 'src'}:{run.sources / 'src-cpp'}",
            "TESTS": ",".join(run.only),
            **environment,
        }
        log = run.work / "output.log"
        command = [str(program), "-p2", "-L", "-K", "-E"]
        results = []
        for selected in rounds:
            with log.open("ab") as output:
                begins_at = output.tell()
                subprocess.run(
                    command,
                    cwd=folder,
                    env={**everything, **selected},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            said = log.read_bytes()[begins_at:].decode(errors="replace")
            results.append(named(of_librdkafka(said), selected.get("SUBTESTS")))
        return sum_of(results)
    finally:
        server.close()


_SCRIPTS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "configs": "org.apache.kafka.tools.ConfigCommand",
    "acls": "org.apache.kafka.tools.AclCommand",
}


def _kafka_scripts(folder: Path) -> Path:
    """Kafka's command line as the suite expects it: bin/ and libs/."""
    class_path = fetch_jars(INTEROP / "kafka-tools")
    (folder / "bin").mkdir(parents=True)
    (folder / "libs").symlink_to(class_path.removesuffix("/*"))
    for name, main in _SCRIPTS.items():
        script = folder / "bin" / f"kafka-{name}.sh"
        script.write_text(f'#!/bin/sh\nexec java -Xmx128m -cp "{class_path}" {main} "$@"\n')
        script.chmod(0o755)
    any_class = folder / "bin" / "kafka-run-class.sh"
    any_class.write_text(f'#!/bin/sh\nexec java -Xmx128m -cp "$CLASSPATH:{class_path}" "$@"\n')
    any_class.chmod(0o755)
    return folder


def _serving(run: Run) -> dict[str, str]:
    """How the plugins start a server; see plugins/suite_server.py."""
    command = [sys.executable, "-m", "tests.suites.serve", "--server", run.kind]
    return {"SUITE_SERVE": json.dumps(command), "SUITE_FOLDER": str(ROOT), "PYTHONPATH": str(PLUGINS)}


def _pytest(
    run: Run, folder: Path, options: Sequence[str], tests: Sequence[str], environment: Mapping[str, str]
) -> Results:
    report = run.work / "report.xml"
    command = [str(run.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options]
    with (run.work / "output.log").open("wb") as output:
        subprocess.run(
            [*command, *tests],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return of_junit(report)


SUITES = (
    Suite(
        "kafka-python",
        "dpkp/kafka-python",
        "a3b3836ff3a4b34ebaa42fd93500bfcb16c1e9b7",
        ["pytest", "pytest-mock", "pytest-timeout", "py", "lz4", "python-snappy", "zstandard", "crc32c", "xxhash"],
        kafka_python,
    ),
    Suite(
        "aiokafka",
        "aio-libs/aiokafka",
        "672947afe85c91b7d953f0259e69837a711d3246",
        ["aiokafka==0.14.0", "pytest==9.0.2", "pytest-asyncio==1.3.0", "pytest-mock", "async-timeout", "cramjam"],
        aiokafka,
    ),
    Suite(
        "confluent-kafka-python",
        "confluentinc/confluent-kafka-python",
        "8b1c7a613434eee3d0e1287d624d7af04932f410",
        ["confluent-kafka[avro,json,protobuf,rules]==2.15.0", "pytest", "pytest-asyncio", "pytest-timeout", "trivup"],
        confluent_kafka_python,
    ),
    Suite("librdkafka", "confluentinc/librdkafka", "4c3b017c3de8d9c10de12b9eec0ea688e8d5787d", [], librdkafka),
    Suite(
        "librdkafka-consumer-protocol",
        "confluentinc/librdkafka",
        "4c3b017c3de8d9c10de12b9eec0ea688e8d5787d",
        [],
        librdkafka_consumer_protocol,
    ),
    Suite(
        "librdkafka-admin", "confluentinc/librdkafka", "4c3b017c3de8d9c10de12b9eec0ea688e8d5787d", [], librdkafka_admin
    ),
)
