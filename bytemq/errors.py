"""Errors of storage and metadata, named by what the caller must do about them.

Kafka's error codes are the wire's business (`bytemq.protocol.error_codes`); the broker translates in one place.
"""

from __future__ import annotations


class BytemqError(Exception):
    """Root of the errors below. Raise one of its subclasses, never this."""


class Unavailable(BytemqError):
    """The operation did not happen, or may have; the same call can succeed later. Retry."""


class Full(Unavailable):
    """There is no space for it now. Retry when there may be room again."""


class Fenced(BytemqError):
    """Another session owns what the caller thought it owned. Stop; a retry can never succeed."""


class Corrupt(BytemqError):
    """Stored bytes are not what was written. Report it; never serve them."""


class Invalid(BytemqError):
    """The caller asked for something that makes no sense. Fix the caller or its input."""


class NotFound(BytemqError):
    """What the caller named does not exist."""
