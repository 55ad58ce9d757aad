"""Coordinators: state machines over the partitions of internal topics.

A shard is a pure machine over one partition: records replay into state; a request gives records and a response. The
runtime appends the records, waits for the commit, and answers. Whoever owns the partition is the coordinator.
"""
