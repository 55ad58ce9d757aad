"""The files of a folder that a running program creates and deletes in meanwhile."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_under(folder: Path) -> Iterator[Path]:
    """At any depth. `Path.rglob` raises where a folder is deleted between its listing and its turn."""
    return (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
