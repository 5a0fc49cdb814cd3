"""The figure for the documentation: what an echo costs the server, and how many there are a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import short

CASE = "rep-64B-100"
OURS, OTHERS, WHISKERS = "#1f6feb", "#9aa4b2", "#3d444d"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.hashsalt": "dploylib",  # the same figures give the same file
}
PANELS = (
    ("cpu_us", "server CPU per message (µs, log scale; less is better)"),
    ("throughput", "messages per second (log scale; more is better)"),
)


def draw_figure(data: dict[str, Any], path: Path) -> None:
    """Draw the results, which have `CASE`, in the format that the suffix of the path says."""
    [case] = [case for case in data["cases"] if case["name"] == CASE]
    summary = case["summary"]
    names = sorted(summary, key=lambda name: summary[name]["cpu_us"]["median"], reverse=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.42 * len(names) + 1.3), layout="constrained")
        for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
            draw_panel(axes, names, [summary[name][key] for name in names], label)
        figure.suptitle(f"{case['title']}, one process", x=0.01, ha="left", fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=144)


def draw_panel(axes: Axes, names: list[str], figures: list[dict[str, float]], label: str) -> None:
    """Draw a bar for each contender: its median, with a whisker from the lowest round to the highest."""
    medians = [one["median"] for one in figures]
    errors = [[one["median"] - one["low"] for one in figures], [one["high"] - one["median"] for one in figures]]
    colors = [OURS if name.startswith("dploylib") else OTHERS for name in names]
    axes.barh(names, medians, color=colors, height=0.7)
    axes.errorbar(medians, names, xerr=errors, fmt="none", ecolor=WHISKERS, elinewidth=1, capsize=2)
    for name, one in zip(names, figures, strict=True):
        axes.annotate(short(one["median"]), (one["high"], name), (5, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.set_xlim(min(medians) / 2, max(one["high"] for one in figures) * 2.5)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel(label)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
