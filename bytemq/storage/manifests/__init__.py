"""Manifests: what a log's files are, and how that changes."""
