"""How Hypothesis runs here: no deadline, for a busy machine is no bug; the same examples in every run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
