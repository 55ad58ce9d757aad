"""What the making of tables tells of itself at each scrape. Owns the names, documented in docs/metrics.md."""

from __future__ import annotations

from bytemq.compaction.restructuring import Restructuring
from bytemq.runtime.metrics import Metrics


def register(metrics: Metrics, tables: Restructuring) -> None:
    """Once per node."""
    metrics.gauge("bytemq_table_conversions_total", "Parquet files made so far", lambda: tables.conversions)
    metrics.gauge("bytemq_table_failures_total", "Conversions that failed so far", lambda: tables.failures)
    metrics.gauge("bytemq_table_converted_bytes_total", "Bytes of files converted", lambda: tables.converted_bytes)
    metrics.gauge("bytemq_table_raw_batches_total", "Batches that are in no table", lambda: tables.kept_raw)
    metrics.gauge("bytemq_table_invalid_records_total", "Keys and values not of their format", lambda: tables.invalid)
    metrics.gauge("bytemq_table_left_out_values_total", "Values that have no column", lambda: tables.left_out)
    metrics.gauge("bytemq_table_retyped_values_total", "Values whose field had another type", lambda: tables.retyped)
    metrics.gauge("bytemq_table_given_up_files", "Files that cannot be converted", lambda: tables.given_up)
