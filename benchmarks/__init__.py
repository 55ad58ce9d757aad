"""Measures a node that runs as a user starts it. `make bench`; nothing here is part of the product."""
