"""Parquet files that hold the log of a partition: writing them, and giving their records back as batches.

The one part of the storage that imports pyarrow. Runs in worker and query processes only; what the broker itself
needs to know of a Parquet file is in `bytemq.storage.tables.companion`.
"""
