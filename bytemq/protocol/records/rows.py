"""Rows of batches, those that follow each other in one partition: natively where that was compiled.

Owns what may be missing. What is said of a row is described in `rows_pure`.
"""

from __future__ import annotations

from bytemq.protocol import plain_produce
from bytemq.protocol.records.rows_pure import Chunks, Extent, Survey

if plain_produce.IS_NATIVE:
    from bytemq.protocol._produced import chunks, entries, extent, place, survey
else:
    from bytemq.protocol.records.rows_pure import chunks, entries, extent, place, survey

__all__ = ["Chunks", "Extent", "Survey", "chunks", "entries", "extent", "place", "survey"]
