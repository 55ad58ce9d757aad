"""SubscribedTopicRegex: an expression of RE2's, or Kafka's refusal."""

from __future__ import annotations

from bytemq.broker.expressions import MAX_EXPRESSION_BYTES, Expression, compile_expression
from bytemq.protocol.error_codes import ErrorCode, KafkaError

_SHOWN_CHARACTERS = 100


def compile_regex(regex: str) -> Expression:
    """Raises KafkaError INVALID_REGULAR_EXPRESSION."""
    try:
        return compile_expression(regex)
    except ValueError as error:
        shown = regex if len(regex) <= MAX_EXPRESSION_BYTES else regex[:_SHOWN_CHARACTERS] + "..."
        text = f"SubscribedTopicRegex `{shown}` is not a valid regular expression: {error}."
        raise KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, text) from None
