"""Durable bytes: the write-ahead log, the segments written behind it, the manifests that name what is live.

Owns formats, files, recovery and garbage. Must not: know requests, topics' names, leaders or watermarks above what is
durable.
"""
