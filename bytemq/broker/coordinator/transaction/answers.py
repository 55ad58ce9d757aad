"""The codes that clients of older versions know instead of PRODUCER_FENCED (KIP-588). Pure."""

from __future__ import annotations

from bytemq.protocol.error_codes import ErrorCode


def answered(code: ErrorCode, version: int, knows_fenced_from: int) -> ErrorCode:
    """`code` as a request of `version` is answered."""
    if code is ErrorCode.PRODUCER_FENCED and version < knows_fenced_from:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return code
