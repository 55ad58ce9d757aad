"""bytemq: a Kafka-compatible message broker that keeps no data of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytemq.query.client import Connection

__version__ = "0.1.0"


def connect(address: str = "http://127.0.0.1:9464") -> Connection:
    """SQL over the topics of the node whose bytemq.http.listen is `address`; see `bytemq.query.client`."""
    from bytemq.query.client import connect as connect_to

    return connect_to(address)
