"""The pictures of docs/distributed.md.

python scripts/plot_distributed.py docs/images                     the processes of a job, and what flows between them
msposenet bench distributed --json > bench.json
python scripts/plot_distributed.py docs/images --figures bench.json   also what the throughput model predicts
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
# The same input gives the same file.
matplotlib.rcParams.update({"svg.hashsalt": "msposenet", "svg.fonttype": "none", "font.family": "DejaVu Sans"})

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

INK, GREY = "#222222", "#8a8a8a"
WORKER, SERVER, SCHEDULER, AGENT = "#cfe3f7", "#fbe0bf", "#d8efd3", "#eeeeee"
GRADIENT, CONTROL, ORDERS = "#c4571b", "#3b8a3e", "#6b6b6b"


def box(axes, x, y, width, height, text, colour, size=9.5, bold=False):
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", facecolor=colour, edgecolor=INK, lw=0.9
        )
    )
    axes.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        size=size,
        color=INK,
        weight="bold" if bold else None,
    )


def arrow(axes, start, end, colour, style="<|-|>", line="-", bend=0.0, width=1.4):
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=9,
            color=colour,
            lw=width,
            linestyle=line,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=1,
            shrinkB=1,
            zorder=3,
        )
    )


def job(path: Path) -> None:
    """Two hosts of a job: supervisor and agents, scheduler with its hub, servers, workers."""
    figure, axes = plt.subplots(figsize=(9.6, 6.3))
    axes.set_xlim(0, 12)
    axes.set_ylim(0, 8)
    axes.axis("off")
    box(axes, 3.6, 7.15, 4.8, 0.62, "supervisor: msposenet launch", AGENT, bold=True)
    for left, name in ((0.15, "host 1"), (6.45, "host 2")):
        axes.add_patch(
            FancyBboxPatch(
                (left, 0.75), 5.4, 5.55, boxstyle="round,pad=0.02,rounding_size=0.1", facecolor="none", edgecolor=GREY,
                lw=1, linestyle=(0, (4, 3)),
            )
        )  # fmt: skip
        axes.text(left + 0.12, 0.9, name, size=9.5, color=GREY, style="italic")
    box(axes, 1.2, 5.45, 3.3, 0.55, "agent (local, or through ssh)", AGENT)
    box(axes, 7.5, 5.45, 3.3, 0.55, "agent (local, or through ssh)", AGENT)
    arrow(axes, (4.6, 7.13), (2.85, 6.03), ORDERS)
    arrow(axes, (7.4, 7.13), (9.15, 6.03), ORDERS)
    box(axes, 3.2, 4.2, 2.1, 0.85, "scheduler\nwith the hub", SCHEDULER)
    box(axes, 0.75, 3.5, 2.0, 0.85, "server 0\nadds up", SERVER)
    box(axes, 9.2, 3.5, 2.0, 0.85, "server 1\nadds up", SERVER)
    box(axes, 0.75, 1.35, 2.0, 1.0, "worker 0\nGPUs 0-7\ncheckpoints", WORKER)
    box(axes, 9.2, 1.35, 2.0, 1.0, "worker 1\nGPUs 0-7", WORKER)
    for start, end, bend in (
        ((2.6, 5.43), (1.8, 4.38), 0.0),
        ((3.4, 5.43), (4.1, 5.08), 0.0),
        ((9.6, 5.43), (10.2, 4.38), 0.0),
        ((1.3, 5.43), (0.73, 2.1), 0.25),
        ((10.7, 5.43), (11.22, 2.1), -0.25),
    ):
        arrow(axes, start, end, ORDERS, "-|>", bend=bend, width=1.0)
    for start, end in (
        ((1.6, 2.38), (1.6, 3.47)),
        ((2.5, 2.38), (9.18, 3.7)),
        ((9.5, 2.38), (2.78, 3.7)),
        ((10.3, 2.38), (10.3, 3.47)),
    ):
        arrow(axes, start, end, GRADIENT, width=2.0)
    for start, end, bend in (
        ((2.78, 1.7), (4.0, 4.17), 0.2),
        ((9.17, 1.7), (4.7, 4.17), -0.2),
        ((2.78, 4.05), (3.17, 4.45), 0.0),
        ((9.17, 4.2), (5.33, 4.65), 0.0),
    ):
        arrow(axes, start, end, CONTROL, line=(0, (3, 2)), bend=bend, width=1.2)
    legend = (
        (GRADIENT, "-", 2.0, "gradients pushed and their sums pulled (KVStore, ps-lite)"),
        (CONTROL, (0, (3, 2)), 1.2, "control channel: signs of life, decisions, checkpoints, results"),
        (ORDERS, "-", 1.0, "orders, output lines, exit codes, signals"),
    )
    for row, (colour, line, width, text) in enumerate(legend):
        y = 0.5 - 0.22 * row
        axes.plot([0.4, 1.1], [y, y], color=colour, linestyle=line, lw=width)
        axes.text(1.25, y, text, size=8.5, va="center", color=INK)
    save(figure, path)


def scaling(path: Path, figures: dict) -> None:
    """Efficiency over the servers beside each worker, one panel a link's rate."""
    rows = figures["cluster"]["rows"]
    rates = sorted({row["gigabits"] for row in rows})
    figure, panels = plt.subplots(1, len(rates), figsize=(9.6, 3.4), sharey=True)
    kinds = (
        (True, False, GRADIENT, "-", "overlapped"),
        (True, True, GRADIENT, (0, (3, 2)), "overlapped, 2-bit"),
        (False, False, "#2f6fae", "-", "after the backward pass"),
        (False, True, "#2f6fae", (0, (3, 2)), "after the backward pass, 2-bit"),
    )
    for axes, gigabits in zip(panels, rates):
        for overlap, packed, colour, line, label in kinds:
            chosen = [
                row for row in rows
                if (row["gigabits"], row["overlap"], row["compression"]) == (gigabits, overlap, packed)
            ]  # fmt: skip
            axes.plot(
                [row["servers_a_worker"] for row in chosen],
                [100 * row["efficiency"] for row in chosen],
                color=colour,
                linestyle=line,
                marker="o",
                ms=4,
                label=label,
            )
        axes.set_title(f"{gigabits:g} Gbit/s", size=10)
        axes.set_xlabel("servers beside each worker", size=9)
        axes.set_xticks(sorted({row["servers_a_worker"] for row in rows}))
        axes.set_ylim(0, 105)
        axes.grid(color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    panels[0].set_ylabel("efficiency, %", size=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False, fontsize=8.5)
    cluster = figures["cluster"]
    figure.suptitle(
        f"{cluster['model']} on {cluster['machines']} x {cluster['gpus']} GPUs, "
        f"{cluster['samples_a_gpu']} samples each, {cluster['teraflops']:g} TFLOP/s sustained: the model's prediction",
        size=10,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None}, bbox_inches="tight")
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figures", type=Path, help="what `msposenet bench distributed --json` printed")
    arguments = parser.parse_args()
    job(arguments.folder / "distributed")
    if arguments.figures:
        scaling(arguments.folder / "distributed_scaling", json.loads(arguments.figures.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
