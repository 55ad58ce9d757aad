"""Checking that every row of a Parquet file can be read and is where it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bytemq.errors import Corrupt
from bytemq.storage.parquet.sources import opened_parquet


def check_rows(path: Path, first_offset: int, last_offset: int, records: int, row_groups: int | None) -> None:
    """Raises Corrupt, OSError."""
    with opened_parquet(path) as file:
        if row_groups is not None and file.num_row_groups != row_groups:
            raise Corrupt(f"has {file.num_row_groups} row groups, its companion says {row_groups}")
        seen, newest = 0, first_offset - 1
        for number in range(file.num_row_groups):
            offsets = file.read_row_group(number, use_threads=False).column("offset").to_numpy()
            if not len(offsets) or offsets[0] <= newest or (len(offsets) > 1 and np.diff(offsets).min() <= 0):
                raise Corrupt(f"the offsets in row group {number} do not ascend")
            seen, newest = seen + len(offsets), int(offsets[-1])
        if seen != records or newest > last_offset:
            raise Corrupt(f"has {seen} records up to offset {newest}, the manifest says {records} up to {last_offset}")
