"""Plots as SVG by hand: lines on logarithmic axes, and bars in pairs. Knows nothing of what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 60
COLOURS = ["#0b6e4f", "#6fbf73", "#8d3b72", "#d98cb3"]
INK, GRID = "#333333", "#dddddd"


class Series(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    colour: int


class LogAxis:
    """From values to places between two ends, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self._low = math.log10(min(positive)) - 0.05
        self._high = max(math.log10(max(positive)) + 0.05, self._low + 0.3)
        self._start, self._stop = start, stop

    def place(self, value: float) -> float:
        share = (math.log10(max(value, 1e-9)) - self._low) / (self._high - self._low)
        return self._start + share * (self._stop - self._start)

    def ticks(self) -> list[float]:
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        return [tick for tick in ticks if self._low <= math.log10(tick) <= self._high]


def lines(title: str, across: str, up: str, series: Sequence[Series]) -> str:
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    x_axis = LogAxis(xs, LEFT, WIDTH - RIGHT)
    y_axis = LogAxis(ys, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in x_axis.ticks():
        x = x_axis.place(tick)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, GRID))
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{tick:g}", "middle"))
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, GRID))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    for number, one in enumerate(series):
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in one.points]
        colour = COLOURS[one.colour]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        parts.append(_key(number, one.name, colour))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, across, "middle"))
    parts.append(_text(14, TOP - 10, up, "start"))
    return _document(title, HEIGHT, parts)


def bars(title: str, unit: str, groups: Mapping[str, tuple[float, float]]) -> str:
    """A pair of bars for each name: ours above, theirs below."""
    row, left = 34, 190
    height = TOP + row * len(groups) + 30
    most = max((value for pair in groups.values() for value in pair), default=1.0) or 1.0
    scale = (WIDTH - RIGHT - left - 60) / most
    parts = [_key(number, name, COLOURS[colour]) for number, (name, colour) in enumerate((("bytemq", 0), ("Kafka", 2)))]
    for number, (name, pair) in enumerate(groups.items()):
        top = TOP + row * number
        parts.append(_text(left - 8, top + 18, name, "end"))
        for side, (value, colour) in enumerate(zip(pair, (0, 2), strict=True)):
            y = top + 4 + 12 * side
            parts.append(
                f'<rect x="{left}" y="{y}" width="{max(value * scale, 1):.1f}" height="10" fill="{COLOURS[colour]}"/>'
            )
            parts.append(_text(left + value * scale + 6, y + 9, f"{value:.3g}", "start", size=10))
    parts.append(_text(left, height - 10, unit, "start"))
    return _document(title, height, parts)


def _document(title: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, background, _text(14, 22, title, "start", size=15), *parts, "</svg>", ""])


def _key(number: int, name: str, colour: str) -> str:
    x = WIDTH - RIGHT - 110 * (number % 4) - 100
    return f'<rect x="{x}" y="30" width="10" height="10" fill="{colour}"/>' + _text(x + 14, 39, name, "start", size=11)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, *, size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="{INK}">{escape(text)}</text>'
