"""All messages of the protocol, one generated module for each API and for each kind of record of an internal topic.

Modules are imported when first used: there are more than a hundred, and a node speaks few of them.
"""

from __future__ import annotations

from importlib import import_module

from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.schema import Message


def request_class(api_key: ApiKey) -> type[Message]:
    """The request of an API that brokers serve. Raises ModuleNotFoundError for those that only controllers serve."""
    return _class(api_key, "Request")


def response_class(api_key: ApiKey) -> type[Message]:
    """The response of an API that brokers serve. Raises ModuleNotFoundError for those that only controllers serve."""
    return _class(api_key, "Response")


def _class(api_key: ApiKey, kind: str) -> type[Message]:
    module = import_module(f"{__name__}.{api_key.name.lower()}")
    found: type[Message] = getattr(module, api_key.name.title().replace("_", "") + kind)
    return found
