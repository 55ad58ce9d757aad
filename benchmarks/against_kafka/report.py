"""The report: a page with the table, the raw figures beside it, and the plots. Owns their form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.against_kafka.plots import Series, bars, lines
from benchmarks.against_kafka.rows import Goal, Row
from benchmarks.against_kafka.stand import RowResult, Spread

SHOWN = [
    "MB/s",
    "out MB/s",
    "records/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "CPU s/GB",
    "written/byte",
    "create ms",
    "KB/partition",
    "WAL PUT/GB",
    "PUT/GB",
    "GET/GB",
    "HEAD/GB",
    "LIST/GB",
    "LIST/GB meanwhile",
    "DELETE/GB",
    "PUT p50 ms",
    "PUT p99 ms",
    "KB/idle connection",
    "to first ack s",
    "memory MB",
]
"""The figures that the table shows, where a row has them; the rest is in the JSON file."""


def write(folder: Path, facts: Mapping[str, str], results: Sequence[RowResult]) -> None:
    """Each file is there whole, as it was or as it is now."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(results)
    for name, svg in plots.items():
        _replace(folder / f"{name}.svg", svg)
    _replace(folder / "kafka.json", json.dumps(_raw(facts, results), indent=1) + "\n")
    _replace(folder / "kafka.md", _page(facts, results, list(plots)))


def _replace(path: Path, text: str) -> None:
    written = path.with_name(f".{path.name}.new")
    written.write_text(text)
    written.replace(path)


def read(folder: Path, rows: Sequence[Row]) -> list[RowResult]:
    """What `write` left there of these rows."""
    path = folder / "kafka.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    by_name = {one["name"]: one for one in found["rows"]}

    def figures(side: Mapping[str, Mapping[str, float]]) -> dict[str, Spread]:
        return {name: Spread(**spread) for name, spread in side.items()}

    return [
        RowResult(row, figures(one["bytemq"]), figures(one["kafka"]), one["machine"], one["commit"], one["measured"])
        for row in rows
        if (one := by_name.get(row.name)) is not None
    ]


def in_their_places(every: Sequence[Row], before: Sequence[RowResult], now: Sequence[RowResult]) -> list[RowResult]:
    """In the order of the table, each as it was last measured."""
    last = {one.row.name: one for one in (*before, *now)}
    return [last[row.name] for row in every if row.name in last]


def _raw(facts: Mapping[str, str], results: Sequence[RowResult]) -> object:
    def figures(spreads: Mapping[str, Spread]) -> object:
        return {name: {key: round(value, 4) for key, value in asdict(one).items()} for name, one in spreads.items()}

    rows = [
        {
            "name": one.row.name,
            "commit": one.commit,
            "measured": one.measured,
            "bytemq": figures(one.ours),
            "kafka": figures(one.theirs),
            "machine": one.machine,
        }
        for one in results
    ]
    return {"facts": dict(facts), "rows": rows}


def _page(facts: Mapping[str, str], results: Sequence[RowResult], plots: Sequence[str]) -> str:
    parts = [
        "# bytemq and Apache Kafka, side by side\n\nWritten by `make bench-kafka`; see [README](README.md). "
        "What stands first is of the last run; each workload names the commit that it was measured with.\n"
    ]
    parts.append("".join(f"- {name}: {value}\n" for name, value in facts.items()))
    table = [one for one in results if one.row.curve is None]
    parts.append(_goals(table))
    parts.append(_limits(results))
    parts.extend(_row(one) for one in table)
    if plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{name}]({name}.svg)\n" for name in plots))
    curves = [one for one in results if one.row.curve is not None]
    if curves:
        parts.append("## The points of the curves\n\n" + _curve_table(curves))
    return "\n".join(parts)


def verdict(goal: Goal, result: RowResult) -> tuple[str, str]:
    """(figure, reached or not) of one goal."""
    value = goal.value(_medians(result.ours), _medians(result.theirs), result.machine)
    if value is None:
        return "", "not measured"
    return f"{value:.2f}", "yes" if goal.reached(value) else "**no**"


def _goals(table: Sequence[RowResult]) -> str:
    lines = ["## Goals\n", "| workload | goal | bytemq, or bytemq : Kafka | reached |", "|---|---|---:|---|"]
    for one in table:
        for goal in one.row.goals:
            figure, reached = verdict(goal, one)
            lines.append(f"| {one.row.title} | {goal} | {figure} | {reached} |")
    return "\n".join(lines) + "\n"


def _limits(results: Sequence[RowResult]) -> str:
    lines = [
        "## What the machine did in the same minutes\n",
        "| limit | median | least | most |",
        "|---|---:|---:|---:|",
    ]
    names = dict.fromkeys(name for one in results for name in one.machine)
    for name in names:  # rows of before a limit was measured are kept and lack it
        values = sorted(one.machine[name] for one in results if name in one.machine)
        lines.append(f"| {name} | {number(values[len(values) // 2])} | {number(values[0])} | {number(values[-1])} |")
    return "\n".join(lines) + "\n"


def _row(one: RowResult) -> str:
    lines = [
        f"## {one.row.title}\n\n`{one.row.name}`, commit {one.commit}, {one.measured}\n",
        f"| | bytemq | {one.row.beside} | ratio |",
        "|---|---:|---:|---:|",
    ]
    for figure in SHOWN:
        ours, theirs = one.ours.get(figure), one.theirs.get(figure)
        if ours is not None or theirs is not None:
            ratio = f"{ours.median / theirs.median:.2f}" if ours and theirs and theirs.median else ""
            lines.append(f"| {figure} | {_cell(ours)} | {_cell(theirs)} | {ratio} |")
    return "\n".join(lines) + "\n"


def _cell(one: Spread | None) -> str:
    if one is None:
        return ""
    if one.least == one.most:
        return number(one.median)
    return f"{number(one.median)} ({number(one.least)} to {number(one.most)})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _medians(figures: Mapping[str, Spread]) -> dict[str, float]:
    return {name: one.median for name, one in figures.items()}


def _curve_table(curves: Sequence[RowResult]) -> str:
    figures = ["MB/s", "p50 ms", "p99 ms", "CPU s/GB"]
    head = "| | " + " | ".join(f"{figure}, bytemq | Kafka" for figure in figures) + " |"
    lines = [head, "|---|" + "---:|" * (2 * len(figures))]
    for one in curves:
        cells = [number(side[figure].median) for figure in figures for side in (one.ours, one.theirs)]
        lines.append(f"| {one.row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# Plots


def _plots(results: Sequence[RowResult]) -> dict[str, str]:
    plots = {}
    cpu = [one for one in results if one.row.curve is None and one.row.measure and "CPU s/GB" in one.ours]
    if cpu:
        groups = {one.row.name: (one.ours["CPU s/GB"].median, one.theirs["CPU s/GB"].median) for one in cpu}
        plots["cpu-per-gb"] = bars("CPU seconds per GB (less is better)", "CPU s/GB", groups)
    rates = _curve(results, "rate")
    if rates:
        plots["latency-at-rate"] = lines(
            "16 KiB batches at a rate: acknowledgement",
            "MB/s acknowledged",
            "ms",
            [
                Series(f"{side} {figure}", [(run["MB/s"].median, run[f"{figure} ms"].median) for run in runs], colour)
                for figure, shade in (("p50", 0), ("p99", 1))
                for side, runs, colour in (
                    ("bytemq", [one.ours for one in rates], shade),
                    ("Kafka", [one.theirs for one in rates], 2 + shade),
                )
            ],
        )
    for kind in ("partitions", "connections"):
        points = _curve(results, kind)
        if points:
            for figure, name in (("CPU s/GB", "cpu"), ("MB/s", "throughput")):
                plots[f"{name}-over-{kind}"] = lines(
                    f"16 KiB batches: {figure} over {kind}",
                    kind,
                    figure,
                    [
                        Series("bytemq", [(_place(one), one.ours[figure].median) for one in points], 0),
                        Series("Kafka", [(_place(one), one.theirs[figure].median) for one in points], 2),
                    ],
                )
    return plots


def _curve(results: Sequence[RowResult], kind: str) -> list[RowResult]:
    return [one for one in results if one.row.curve is not None and one.row.curve[0] == kind]


def _place(one: RowResult) -> float:
    assert one.row.curve is not None
    return one.row.curve[1]
