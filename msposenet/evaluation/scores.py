"""What every metric gives: named figures, what they were measured on, and what a reader should know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricScores:
    """The figures of one metric on one set.

    `values` are in the order they are printed, in the metric's own unit (`unit`: "%" or "" for 0 to 1). `headline` is
    the name of the figure that checkpoints are compared by: larger is better. `boxes` says whose boxes the poses were
    found in; `people` counts the annotated people that are scored; `notes` are sentences on what would surprise.
    """

    metric: str  # "MPII PCKh"
    values: dict[str, float]
    headline: str
    boxes: str
    images: int
    people: int
    results: int
    unit: str = "%"
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> tuple[str, float]:
        """Name and value, 0 to 1, of the headline figure."""
        return self.headline, self.values[self.headline] / (100 if self.unit == "%" else 1)

    @property
    def figures(self) -> dict[str, float]:
        """What a training's log shows."""
        return dict(self.values)

    def as_dict(self) -> dict[str, Any]:
        """The figures under their standard names with `boxes`, the counts and the notes: what `eval --json` prints."""
        counts = {name: getattr(self, name) for name in ("metric", "boxes", "images", "people", "results")}
        return {**self.values, **counts, "notes": list(self.notes)}

    def lines(self, name: str = "") -> list[str]:
        """The heading "boxes: ...", a markdown table of one row (`name` first), the notes."""
        digits = 2 if self.unit == "%" else 4
        figures = " | ".join(f"{value:.{digits}f}" for value in self.values.values())
        return [
            f"{self.metric} on {self.people:,} people of {self.images:,} images, boxes: {self.boxes}",
            f"| model | {' | '.join(self.values)} | boxes |",
            "|" + "---|" * (len(self.values) + 2),
            f"| {name} | {figures} | {self.boxes} |",
            *(f"note: {note}" for note in self.notes),
        ]
