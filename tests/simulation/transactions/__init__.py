"""The transaction coordinator's machine alone, through many lives, and logs that take part. See `world.py`."""
