"""Logs that other sessions own, as far as they are committed: what a broker needs to serve readers of any partition."""
