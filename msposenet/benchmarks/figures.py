"""What a race has shown: medians, quartiles and ratios, as a table to read and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from msposenet.benchmarks.race import Entry, Race

Quartiles = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A contender's figures; None where it was not measured, `not_measured` then says why.

    seconds_median and quartiles: of an iteration, over the rounds. ratio: how many times as fast as `reference`, the
    median over the rounds; `ratios`, of our own contenders alone: against each peer, as (quartile, median, quartile).
    """

    case: str
    name: str
    kind: str  # ours, peer or peak
    items: int = 1
    seconds_median: float | None = None
    quartiles: Quartiles | None = None
    per_second: float | None = None
    ratio: float | None = None
    ratio_quartiles: Quartiles | None = None
    reference: str | None = None
    ratios: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    gflops: float | None = None
    share_of_peak: float | None = None
    not_measured: str | None = None


@dataclass
class Figures:
    """One benchmark's figures. unit: what an iteration has `items` of; more: further keys of the JSON form."""

    bench: str
    title: str
    unit: str
    measured_on: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "bench": self.bench,
            "title": self.title,
            "unit": self.unit,
            "measured_on": self.measured_on,
            "rows": [asdict(row) for row in self.rows],
            "checks": self.checks,
            **self.more,
        }

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(row.case for row in self.rows))


def rows_of(case: str, entries: Sequence[Entry], result: Race, references: Sequence[str]) -> list[Row]:
    """Rows of the entries, in their order. The first of `references` that was measured is the one of the ratios."""
    reference = next((name for name in references if name in result.seconds), None)
    peaks = {e.name: e.operations / np.median(result.seconds[e.name]) for e in entries if _measured_peak(e, result)}
    fastest = next((e for e in entries if peaks and e.name == max(peaks, key=peaks.get)), None)
    return [_row(case, entry, entries, result, reference, fastest) for entry in entries]


def _measured_peak(entry: Entry, result: Race) -> bool:
    return entry.peak and entry.name in result.seconds


def _row(
    case: str, entry: Entry, entries: Sequence[Entry], result: Race, reference: str | None, fastest: Entry | None
) -> Row:
    kind = "peak" if entry.peak else "ours" if entry.ours else "peer"
    if entry.name not in result.seconds:
        reason = result.lost.get(entry.name, "not asked for")
        return Row(case, entry.name, kind, entry.items, not_measured=reason)
    seconds = result.seconds[entry.name]
    low, median, high = _quartiles(seconds)
    share = None
    if fastest is not None and entry.operations:
        rate = entry.operations / fastest.operations
        share = float(np.median(rate * result.ratios(entry.name, fastest.name)))
    compared = None
    if reference is not None and not entry.peak:
        compared = _quartiles(result.ratios(entry.name, reference))
    # Our first contender is what users get unasked; the others are held against it, too.
    first = next((e for e in entries if e.ours), None)
    others = [e for e in entries if e.name in result.seconds and not e.peak and e is not entry]
    peers = [e for e in others if not e.ours or e is first]
    return Row(
        case,
        entry.name,
        kind,
        entry.items,
        seconds_median=median,
        quartiles=(low, high),
        per_second=None if entry.peak else entry.items / median,
        ratio=compared and compared[1],
        ratio_quartiles=compared and (compared[0], compared[2]),
        reference=reference if compared else None,
        ratios={e.name: _quartiles(result.ratios(entry.name, e.name)) for e in peers} if entry.ours else {},
        gflops=entry.operations / median / 1e9 if entry.operations else None,
        share_of_peak=share,
    )


def _quartiles(values: np.ndarray) -> tuple[float, float, float]:
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return low, median, high


def lines_of(figures: Figures) -> list[str]:
    """The figures to read: what was measured on, a table for each case, our contenders against each of the others."""
    lines = [figures.title, machine_line(figures.measured_on)]
    for case in figures.cases:
        rows = [row for row in figures.rows if row.case == case]
        lines += ["", *([f"{case}:", ""] if case else []), *_table(rows, figures.unit)]
        lines += [f"not measured: {row.name}: {row.not_measured}" for row in rows if row.not_measured]
        lines += _against(rows)
        checks = [check for check in figures.checks if check["case"] == case]
        free = [check for check in checks if check.get("tolerance", 0.0) is None]
        bound = [check for check in checks if check not in free]
        if len(bound) > 1:
            worst = max(check["error"] for check in bound)
            how = f"to {worst:.1e} {bound[0]['unit']}" if worst else "to the last bit"
            lines.append(f"results of {len(bound)} contenders agree {how}")
        lines += [f"results of {check['name']} differ by {check['error']:.1e} {check['unit']}" for check in free]
    return lines


def machine_line(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    busy = machine.get("others")
    others = "" if busy is None else f"; other programs took {busy:.0%} of the processor time"
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; {versions}{others}"


def _against(rows: Sequence[Row]) -> list[str]:
    """A table of our contenders against each peer, with quartiles."""
    ours = [row for row in rows if row.ratios]
    if not ours:
        return []
    peers = list(dict.fromkeys(peer for row in ours for peer in row.ratios))
    lines = ["", _cells(["times as fast (quartiles) as", *peers]), _cells(["---"] * (1 + len(peers)))]
    for row in ours:
        cells = [_ratio(*row.ratios[peer]) if peer in row.ratios else "" for peer in peers]
        lines.append(_cells([row.name, *cells]))
    return [*lines, ""]


def _ratio(low: float, median: float, high: float) -> str:
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _table(rows: Sequence[Row], unit: str) -> list[str]:
    measured = [row for row in rows if row.not_measured is None]
    reference = next((row.reference for row in measured if row.reference), None)
    counted = any(row.gflops is not None for row in measured)
    head = ["contender", "median", "quartiles", f"{unit}/s"]
    if reference:
        head.append(f"times as fast as {reference}")
    if counted:
        head += ["GFLOP/s", "share of peak"]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in measured:
        low, high = row.quartiles
        cells = [row.name, _seconds(row.seconds_median), f"{_seconds(low)} to {_seconds(high)}"]
        cells.append("" if row.per_second is None else f"{row.per_second:,.{0 if row.per_second >= 100 else 1}f}")
        if reference:
            cells.append("" if row.ratio is None else f"{row.ratio:.2f}")
        if counted:
            cells.append("" if row.gflops is None else f"{row.gflops:,.1f}")
            cells.append("" if row.share_of_peak is None else f"{row.share_of_peak:.0%}")
        lines.append(_cells(cells))
    return lines if measured else []


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 999.5 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} µs"
