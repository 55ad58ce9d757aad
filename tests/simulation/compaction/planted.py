"""Classic bugs of a cleaner, planted on purpose. Each is a context manager that breaks it while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from bytemq.compaction import cleaner
from bytemq.compaction.cleaner import Cleaner
from bytemq.compaction.planner import plan_cleaning
from bytemq.compaction.transactions import CleanedTransactions
from bytemq.storage.log_storage import LogStorage

Planted = Callable[[], AbstractContextManager[Any]]


def tombstone_dropped_too_early() -> AbstractContextManager[Any]:
    job = Cleaner._job

    async def broken(self: Cleaner, *arguments: Any) -> Any:
        return replace(await job(self, *arguments), delete_retention_ms=0)

    return patch.object(Cleaner, "_job", broken)


def aborted_records_replace_committed_ones() -> AbstractContextManager[Any]:
    return patch.object(CleanedTransactions, "is_aborted", lambda self, batch: False)


def cleaned_above_the_last_stable_offset() -> AbstractContextManager[Any]:
    def broken(segments: Any, last_stable_offset: int, policy: Any, now_ms: int) -> Any:
        return plan_cleaning(segments, 1 << 60, policy, now_ms)

    return patch.object(cleaner, "plan_cleaning", broken)


def replaced_files_deleted_before_the_manifest() -> AbstractContextManager[Any]:
    replace_files = LogStorage.replace_files

    async def broken(self: LogStorage, files: Any, before: Any, after: Any) -> None:
        await self._store.delete([segment.name for segment in before])
        await replace_files(self, files, before, after)

    return patch.object(LogStorage, "replace_files", broken)


PLANTED: dict[Planted, int] = {
    tombstone_dropped_too_early: 3,
    aborted_records_replace_committed_ones: 1,
    cleaned_above_the_last_stable_offset: 1,
    replaced_files_deleted_before_the_manifest: 8,
}
"""Each with a seed that finds it."""
