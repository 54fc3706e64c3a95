"""A race as a picture: a bar for each contender, a panel for each case."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from msposenet.benchmarks.figures import Figures, Row, machine_line
from msposenet.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS, _PEER = "#3a6ea5", "#a8b2bd"
_BAR = 0.34  # inches
_WIDTH = 9.0


def write_chart(figures: Figures, path: Path) -> None:
    """The chart as a PNG file. StorageError when it cannot be written, ConfigError for another kind of file."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--chart {path}: give a name that ends with .png")
    try:
        draw(figures).savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"{path}: the chart cannot be written ({error})") from None


def draw(figures: Figures) -> Figure:
    """One bar for each measured contender: its speed, with the quartiles as a whisker."""
    from matplotlib.figure import Figure

    cases = [[row for row in figures.rows if row.case == case and row.per_second] for case in figures.cases]
    panels = [rows for rows in cases if rows]
    heights = [1.0 + _BAR * len(rows) for rows in panels] or [1.0]
    picture = Figure(figsize=(_WIDTH, 1.1 + sum(heights)), layout="constrained")
    picture.suptitle(figures.title, fontsize=12)
    picture.supxlabel(textwrap.fill(machine_line(figures.measured_on), 140), fontsize=6.5, color="#5b6673")
    axes = picture.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, rows in zip(axes, panels):
        _panel(axis, rows, figures.unit)
    return picture


def _panel(axis, rows: list[Row], unit: str) -> None:
    places = range(len(rows))
    speeds = [row.per_second for row in rows]
    low = [row.per_second - row.items / row.quartiles[1] for row in rows]
    high = [row.items / row.quartiles[0] - row.per_second for row in rows]
    colors = [_OURS if row.kind == "ours" else _PEER for row in rows]
    axis.barh(places, speeds, color=colors, xerr=[low, high], error_kw={"ecolor": "#1d2733", "lw": 1, "capsize": 2})
    axis.set_yticks(places, [row.name for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.35 * max(speed + more for speed, more in zip(speeds, high)))
    for place, row, more in zip(places, rows, high):
        ratio = "" if row.ratio is None else f", {row.ratio:.2f} x"
        share = "" if row.share_of_peak is None else f", {row.share_of_peak:.0%} of peak"
        axis.text(row.per_second + more, place, f"  {row.per_second:,.1f}{ratio}{share}", va="center", fontsize=8)
    reference = next((row.reference for row in rows if row.reference), None)
    compared = f"; x: times as fast as {reference}" if reference else ""
    axis.set_xlabel(f"{unit}/s{compared}", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if rows[0].case:
        axis.set_title(rows[0].case, loc="left", fontsize=9)
