"""The newest offset of each key within fixed memory: native where the package could be compiled."""

from __future__ import annotations

from bytemq.protocol.records.offset_map_pure import Selected

try:
    from bytemq.protocol.records._offset_map import OffsetMap, shift

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: the same, slower and for fewer keys
    from bytemq.protocol.records.offset_map_pure import OffsetMap, shift  # type: ignore[assignment]

    IS_NATIVE = False

__all__ = ["IS_NATIVE", "OffsetMap", "Selected", "shift"]
