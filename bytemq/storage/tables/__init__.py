"""Parquet files as parts of a log: what a manifest says of them, and reading them back."""
