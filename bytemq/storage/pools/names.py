"""In which pool an object is: its name says so. Pure.

Owns: the form of such names. Must not: know which pools there are.

    topics/ID/0/...log        in the primary store, as it was before there were pools
    @b/topics/ID/0/...log     in the pool b, which calls it topics/ID/0/...log

Manifests, tail records and indexes name objects so. Nothing is ever looked for in several places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PRIMARY = ""
"""The store that `--storage` names, among pools."""
SHOWN_PRIMARY = "primary"
MOST_POOLS = 16
_MARK = "@"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def in_pool(pool: str, plain: str) -> str:
    """The name of what the pool calls `plain`: an object, or what the names of several begin with."""
    return f"{_MARK}{pool}/{plain}" if pool else plain


def pool_of(name: str) -> str:
    return name[1 : name.index("/")] if name.startswith(_MARK) else PRIMARY


def plain_name(name: str) -> str:
    """What the pool itself calls the object."""
    return name[name.index("/") + 1 :] if name.startswith(_MARK) else name


def by_pool(names: Iterable[str]) -> dict[str, list[str]]:
    """The same names, those in one pool together."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(pool_of(name), []).append(name)
    return found


def shown(pool: str) -> str:
    return pool or SHOWN_PRIMARY


def pool_shown_as(name: str) -> str:
    """As names of objects have it."""
    return PRIMARY if name == SHOWN_PRIMARY else name


def may_be_called(name: str) -> bool:
    """Whether a pool may have this name."""
    return _NAME.fullmatch(name) is not None and name != SHOWN_PRIMARY
