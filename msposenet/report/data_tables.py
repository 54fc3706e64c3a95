"""The findings of a data check on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from msposenet.data.doctor_findings import CheckedSet
from msposenet.report.escape import printable


def set_table(checked: CheckedSet) -> Table:
    """Counts and shares of one set."""
    table = Table(title=Text(printable(checked.set.title)), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _rows(checked):
        table.add_row(Text(printable(name)), Text(value, style="red" if name.startswith("damaged") else ""))
    return table


def _rows(checked: CheckedSet) -> Iterator[tuple[str, str]]:
    figures = checked.figures
    if figures:
        yield "pictures", f"{figures['pictures']:,}"
        yield "  without persons", f"{figures['pictures_without_persons']:,}"
        yield "persons", f"{figures['persons']:,}"
        for reason, count in figures["left_out"].items():
            yield f"  left out: {reason}", f"{count:,}"
        for reason, count in figures["assumed_or_repaired"].items():
            yield f"  {reason}", f"{count:,}"
        if figures["boxes_reaching_out"]:
            yield "  box reaches out of the picture", f"{figures['boxes_reaching_out']:,}"
        sizes = figures["person_size_px"]["percentiles"]
        yield "longer side of the box, 5 % / median / 95 %", " / ".join(f"{sizes[at]:.0f}" for at in ("5", "50", "95"))
        labelled = [joint for joint in figures["joints"] if joint["labelled"]]
        total = sum(joint["labelled"] for joint in labelled)
        yield "labelled joints a person", f"{total / max(1, figures['persons']):.1f} of {len(figures['joints'])}"
        yield "  off the picture", f"{figures['joints_outside_picture_share']:.2%}"
        if labelled:
            least = min(labelled, key=lambda joint: joint["labelled"])
            yield f"  least often labelled: {least['name']}", f"{least['labelled_share']:.0%}"
    for kind, count in checked.damage_kinds().items():
        yield f"damaged: {kind}", f"{count:,}"
