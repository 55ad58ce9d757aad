"""bytemq and Apache Kafka side by side: `make bench-kafka`."""
