"""Nodes as an installed program starts them. Owns what that means."""

from __future__ import annotations

from pathlib import Path


def compiled(folder: Path) -> dict[str, str]:
    """An installed program does not compile its modules at each start."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
