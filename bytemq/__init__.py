"""bytemq: a Kafka-compatible message broker that keeps no data of its own."""

__version__ = "0.1.0"
