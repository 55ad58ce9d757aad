"""The broker: what a Kafka client talks to.

`server`, `connection` and `dispatch` carry requests to `handlers`; `log` decides order and visibility of each owned
partition; `coordinator` runs groups and transactions over internal topics. Must not know how the scheduler chooses
owners: the two meet only through metadata.
"""
