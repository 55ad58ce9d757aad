"""pytest plugin for kafka-python's own suite: its broker fixture starts our server where it would start a Java one.

A module gets one broker, with the settings that the suite asks for. What needs TLS or SASL is skipped, by that name.
"""

import pytest
from suite_server import SuiteServer


def pytest_configure(config):
    from test.integration.fixtures import KafkaFixture, get_open_port

    def instance(
        broker_id, host="127.0.0.1", transport="PLAINTEXT", partitions=4, replicas=1, auto_create_topic=True, **others
    ):
        if transport != "PLAINTEXT":
            pytest.skip(f"needs a listener with {transport}")
        port = get_open_port()
        settings = {
            "node.id": str(broker_id),
            "num.partitions": str(partitions),
            "auto.create.topics.enable": str(auto_create_topic).lower(),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.num.partitions": "2",
        }
        server = SuiteServer(port, settings)
        fixture = KafkaFixture("127.0.0.1", port, broker_id, external=True, partitions=partitions, replicas=replicas)
        fixture.close = server.stop
        return fixture

    KafkaFixture.instance = staticmethod(instance)
