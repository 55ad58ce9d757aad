"""Message definitions of Apache Kafka 4.4.0 that kafka-python does not have, as they are in Kafka's client jar (Apache
License 2.0).
"""
