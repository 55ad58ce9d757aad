"""The write-ahead log: its format, its staging, and what it is in local files."""
