"""Structured logs: one line an event, `key=value` (logfmt) or JSON, the level changeable at run time.

Owns format and levels. Use:

    log = get_logger("broker.server")
    log.info("listener started", listener="PLAINTEXT", port=9092)

The first argument is constant text, what varies goes to fields, so that lines can be searched and counted. A line never
holds what a client sent beyond 200 characters of a field, and never a line break: hostile names cannot forge lines.
"""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

LogFormat = Literal["logfmt", "json"]
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""Kafka says warn; `levels` says warning."""
MAX_FIELD_CHARS = 200
_ROOT = "bytemq"


class StructuredLogger:
    """A standard logger that takes an event's fields as keyword arguments."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """With `error`, its traceback follows the line."""
        self._log(logging.ERROR, event, fields, error)

    def _log(self, level: int, event: str, fields: dict[str, object], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields}, exc_info=error)


def get_logger(name: str) -> StructuredLogger:
    """The logger of one part, e.g. "broker.server"; its level can be set on its own."""
    return StructuredLogger(logging.getLogger(f"{_ROOT}.{name}"))


def configure(*, level: str = "info", log_format: LogFormat = "logfmt", stream: TextIO | None = None) -> None:
    """Sends all log lines to `stream` (standard error). Call once at start; a second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _LogfmtFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.propagate = False
    # asyncio reports crashed callbacks through its own logger: they belong to the same stream.
    foreign = logging.getLogger("asyncio")
    foreign.handlers[:] = [handler]
    foreign.propagate = False
    set_level(level)


def set_level(level: str, part: str = "") -> None:
    """Changes the level of everything, or of one part and what is below it. ValueError for an unknown level."""
    try:
        value = LEVELS[level.lower()]
    except KeyError:
        raise ValueError(f"unknown log level {level[:40]!r}; one of {', '.join(LEVELS)}") from None
    logging.getLogger(f"{_ROOT}.{part}" if part else _ROOT).setLevel(value)


def levels() -> dict[str, str]:
    """The levels set so far: "" is the default of all parts."""
    names = {value: name for name, value in LEVELS.items()}
    found = {"": names.get(logging.getLogger(_ROOT).getEffectiveLevel(), "warning")}
    for name, logger in sorted(logging.root.manager.loggerDict.items()):
        if name.startswith(_ROOT + ".") and isinstance(logger, logging.Logger) and logger.level:
            found[name[len(_ROOT) + 1 :]] = names.get(logger.level, str(logger.level))
    return found


def current_format() -> LogFormat:
    """As configured."""
    handlers = logging.getLogger(_ROOT).handlers
    return "json" if handlers and isinstance(handlers[0].formatter, _JsonFormatter) else "logfmt"


class LogGate:
    """Lets at most `burst` lines pass per `interval_s` for each key and counts the rest: hostile clients fill no disk.

    `allow` returns None to keep quiet, else how many lines of this key were kept back since the last that passed.
    """

    __slots__ = ("_burst", "_interval_s", "_monotonic", "_windows")
    _MAX_KEYS = 1024

    def __init__(self, monotonic: Callable[[], float], *, burst: int = 5, interval_s: float = 10.0) -> None:
        self._monotonic = monotonic
        self._burst = burst
        self._interval_s = interval_s
        self._windows: dict[object, list[float]] = {}  # key -> [window start, passed, kept back]

    def allow(self, key: object) -> int | None:
        now = self._monotonic()
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._MAX_KEYS:
                self._windows.clear()
            window = self._windows[key] = [now, 0, 0]
        elif now - window[0] >= self._interval_s:
            window[0], window[1] = now, 0
        if window[1] >= self._burst:
            window[2] += 1
            return None
        window[1] += 1
        kept_back, window[2] = int(window[2]), 0
        return kept_back


class _LogfmtFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [f"{_timestamp(self, record)} {record.levelname:<7} {_part(record)}: {_one_line(record.getMessage())}"]
        for key, value in getattr(record, "fields", {}).items():
            parts.append(f"{key}={_logfmt_value(value)}")
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(self, record),
            "level": record.levelname.lower(),
            "part": _part(record),
            "event": record.getMessage(),
        }
        for key, value in getattr(record, "fields", {}).items():
            entry[key] = value if isinstance(value, int | float | bool | None) else str(value)[:MAX_FIELD_CHARS]
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _timestamp(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return f"{formatter.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}"


def _part(record: logging.LogRecord) -> str:
    return record.name.removeprefix(_ROOT + ".")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _logfmt_value(value: object) -> str:
    text = str(value)[:MAX_FIELD_CHARS]
    if text and text.isprintable() and not any(character in text for character in ' ="'):
        return text
    return json.dumps(text)
