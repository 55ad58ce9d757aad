"""Regular expressions that clients send, by RE2: the time to match is linear in expression and text, whatever they are.

Owns what may be compiled, and what matching it counts for: linear is not short, and whoever matches with many texts
gives others their turn after SLICE_STEPS. RE2 is imported when the first expression comes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

MAX_EXPRESSION_BYTES = 10_000
SLICE_STEPS = 500_000
"""5 ms where RE2 goes step by step, as it does when an expression has too many states; a hundred times less, mostly."""
_MOST_STEPS = 20_000_000
_MAX_COMPILED_BYTES = 1 << 20


class Expression:
    """A compiled one, to be matched with texts as a whole."""

    __slots__ = ("_pattern", "_size")

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self._size: int = pattern.programsize

    def steps(self, text: str) -> int:
        """What `matches` takes at most."""
        return self._size * (len(text) + 1)

    def matches(self, text: str) -> bool:
        """Raises ValueError if that could take a noticeable time."""
        if self.steps(text) > _MOST_STEPS:
            raise ValueError(f"too complex for a text of {len(text)} characters")
        return self._pattern.fullmatch(text) is not None


@lru_cache(maxsize=64)
def compile_expression(text: str) -> Expression:
    """Raises ValueError with the reason."""
    import re2

    options = re2.Options()
    options.max_mem = _MAX_COMPILED_BYTES
    options.log_errors = False
    options.never_capture = True  # with hundreds of groups, following what each has found takes most of the time
    if len(text.encode("utf-8", "surrogatepass")) > MAX_EXPRESSION_BYTES:
        raise ValueError(f"longer than {MAX_EXPRESSION_BYTES} bytes")
    try:
        return Expression(re2.compile(text, options))
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    except UnicodeError:
        raise ValueError("not valid UTF-8") from None
