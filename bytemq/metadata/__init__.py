"""Metadata: who owns what, and what of the storage is live."""
