"""Regular expressions that clients send, by RE2: the time to match is linear in expression and text, whatever they are.

RE2 is imported when the first expression comes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from bytemq.protocol.error_codes import ErrorCode, KafkaError

MAX_REGEX_BYTES = 10_000
_MAX_COMPILED_BYTES = 1 << 20


@lru_cache(maxsize=64)
def compile_regex(regex: str) -> Any:
    """An RE2 pattern, to be matched with names as a whole. Raises KafkaError INVALID_REGULAR_EXPRESSION."""
    import re2

    options = re2.Options()
    options.max_mem = _MAX_COMPILED_BYTES
    options.log_errors = False
    if len(regex.encode("utf-8", "surrogatepass")) > MAX_REGEX_BYTES:
        raise _invalid(regex[:100] + "...", f"longer than {MAX_REGEX_BYTES} bytes")
    try:
        return re2.compile(regex, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise _invalid(regex, text) from None
    except UnicodeError:
        raise _invalid(regex, "not valid UTF-8") from None


def _invalid(regex: str, reason: str) -> KafkaError:
    text = f"SubscribedTopicRegex `{regex}` is not a valid regular expression: {reason}."
    return KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, text)
