"""The test suites of public Kafka clients, unmodified, against a node started as a user would (`make suites`)."""
