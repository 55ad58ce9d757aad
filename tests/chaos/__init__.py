"""Real brokers, etcd, a real S3 server and unmodified clients, hurt by seed: `make chaos`.

One seed decides what clients do and which troubles come when: brokers killed or stopped, members of etcd lost, the
store away, cuts in one or both directions on every way between them, clocks that jump. What clients saw is checked by
the checker of the simulated brokers (`tests/simulation/broker/history.py`), and what only real clients have on top of
it (`history.py`). Real time and real processes: the same seed brings the same troubles, not the same interleaving.
"""
