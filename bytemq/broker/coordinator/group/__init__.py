"""The group coordinator's machine: classic groups and their committed offsets. Pure: no clock, randomness or I/O of
its own.
"""
