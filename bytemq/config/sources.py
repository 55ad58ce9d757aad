"""Where static configs come from: a file in Kafka's server.properties syntax, the environment, flags, in this order
of weight.

Owns reading and merging them. Environment: BYTEMQ_ and the config's name in capitals with underscores for dots
(BYTEMQ_LOG_RETENTION_MS); our own settings without the "bytemq." of their names (BYTEMQ_DATA_DIR).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from bytemq.config.definitions import broker_definitions
from bytemq.config.properties import parse_properties
from bytemq.config.values import InvalidConfig

ENVIRONMENT_PREFIX = "BYTEMQ_"


def read_config_file(path: Path) -> dict[str, str]:
    """The configs in a server.properties file. Raises InvalidConfig if it cannot be read."""
    try:
        return parse_properties(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidConfig(f"Cannot read the config file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"The config file {path} is not UTF-8 (byte {error.start})") from None
    except InvalidConfig as error:
        raise InvalidConfig(f"The config file {path}: {error}") from None


def configs_of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The configs that the environment sets; variables with our prefix that name no config are left alone."""
    names = {environment_name(name): name for name in broker_definitions()}
    return {names[variable]: value for variable, value in environment.items() if variable in names}


def unknown_variables(environment: Mapping[str, str], others: Iterable[str] = ()) -> list[str]:
    """Variables with our prefix that name no config and are not one of the `others` that the program reads, each with
    what may have been meant. They are no error: Kubernetes sets some of its own for a service named bytemq.
    """
    known = {*map(environment_name, broker_definitions()), *others}
    unknown = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known)
    return [name + _hint(name, known, cutoff=0.8) for name in unknown]


def environment_name(config_name: str) -> str:
    return ENVIRONMENT_PREFIX + config_name.removeprefix("bytemq.").replace(".", "_").upper()


def configs_of_flags(assignments: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE texts as configs. Raises InvalidConfig: no "=", or a name that no broker config has."""
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidConfig(f"{assignment!r} is not of the form NAME=VALUE")
        if name not in broker_definitions():
            raise InvalidConfig(f"There is no broker config {name}{_hint(name, broker_definitions())}")
        found[name] = value
    return found


def _hint(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
