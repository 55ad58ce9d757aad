"""What a topic may be called: Kafka's rules, message for message (org.apache.kafka.common.internals.Topic). Pure."""

from __future__ import annotations

import re

from bytemq.protocol.error_codes import ErrorCode, KafkaError

MAX_NAME_LENGTH = 249
OFFSETS_TOPIC = "__consumer_offsets"
TRANSACTION_TOPIC = "__transaction_state"
SHARE_TOPIC = "__share_group_state"
INTERNAL_TOPICS = frozenset({OFFSETS_TOPIC, TRANSACTION_TOPIC, SHARE_TOPIC})
CLUSTER_METADATA_TOPIC = "__cluster_metadata"

_LEGAL = re.compile(r"[a-zA-Z0-9._-]+")


def check_topic_name(name: str) -> None:
    """Raises KafkaError INVALID_TOPIC_EXCEPTION."""
    why = _why_illegal(name)
    if why is not None:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {why}")


def is_legal(name: str) -> bool:
    return _why_illegal(name) is None


def has_collision_characters(name: str) -> bool:
    return "." in name or "_" in name


def unify_collision_characters(name: str) -> str:
    """Metric names cannot tell '.' from '_', so two topics must not differ by them alone."""
    return name.replace(".", "_")


def _why_illegal(name: str) -> str | None:
    if not name:
        return "the empty string is not allowed"
    if name in (".", ".."):
        return f"'{name}' is not allowed"
    if len(name) > MAX_NAME_LENGTH:
        return f"the length of '{name}' is longer than the max allowed length {MAX_NAME_LENGTH}"
    if _LEGAL.fullmatch(name) is None:
        return f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    return None
