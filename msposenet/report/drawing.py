"""Inline SVG: poses over pictures, bars of a histogram."""

from __future__ import annotations

from collections.abc import Sequence

from msposenet.report.data_samples import Shot
from msposenet.report.escape import text
from msposenet.skeletons import Skeleton

# The colours of msposenet/inference/drawing.py, which is not imported since it brings the network along. Each side has
# a shape too: not everybody tells green from orange.
COLORS = {"left": "#3cb44b", "right": "#e65a28", "middle": "#4682e6"}
_RADIUS = 3.4  # of a joint, px on the page
_CHART_WH = (430, 150)


def joint_sides(skeleton: Skeleton) -> list[str]:
    """left, right (the person's own) or middle, of each joint."""
    sides = dict.fromkeys(skeleton.joints, "middle")
    for left, right in skeleton.flip_pairs:
        sides[left], sides[right] = "left", "right"
    return list(sides.values())


def pose_svg(shot: Shot, skeleton: Skeleton, scale: float) -> str:
    """An overlay of the shot, which is shown `scale` times its size: box, limbs, joints; names appear on hover."""
    height, width = shot.pixels.shape[:2]
    radius = _RADIUS / scale
    sides = joint_sides(skeleton)
    parts = []
    if shot.box is not None:
        x, y, w, h = shot.box
        place = f'x="{x + 0.5:.2f}" y="{y + 0.5:.2f}" width="{w:.2f}" height="{h:.2f}"'
        parts.append(f'<rect class="box" {place} stroke-width="{0.45 * radius:.2f}"/>')
    places = [(x + 0.5, y + 0.5) for x, y in shot.joints[:, :2].tolist()]  # a pixel's centre is at a half in SVG
    for a, b in skeleton.limb_index.tolist():
        if shot.joints[a, 2] > 0 and shot.joints[b, 2] > 0:
            side = sides[a] if sides[a] == sides[b] else "middle"
            (x1, y1), (x2, y2) = places[a], places[b]
            ends = f'x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"'
            parts.append(f'<line class="{side}" {ends} stroke-width="{0.65 * radius:.2f}"/>')
    for place, (x, y) in enumerate(places):
        visibility = int(shot.joints[place, 2])
        if visibility:
            state = "visible" if visibility == 2 else "hidden"
            title = f"<title>{text(skeleton.joints[place])}, {state}</title>"
            kind = f'class="{sides[place]} {state}" stroke-width="{0.35 * radius:.2f}"'
            path = _mark(sides[place], x, y, radius)
            parts.append(f'<path {kind} d="{path}">{title}</path>')
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'


def _mark(side: str, x: float, y: float, radius: float) -> str:
    """Path of a circle for left, a square for right, a diamond for the middle."""
    if side == "left":
        return (
            f"M{x - radius:.2f} {y:.2f}a{radius:.2f} {radius:.2f} 0 1 0 {2 * radius:.2f} 0"
            f"a{radius:.2f} {radius:.2f} 0 1 0 {-2 * radius:.2f} 0z"
        )
    r = radius * (0.9 if side == "right" else 1.2)
    corners = [(-r, -r), (r, -r), (r, r), (-r, r)] if side == "right" else [(0, -r), (r, 0), (0, r), (-r, 0)]
    return "M" + "L".join(f"{x + dx:.2f} {y + dy:.2f}" for dx, dy in corners) + "z"


def mark_svg(side: str, hidden: bool = False) -> str:
    """One mark by itself, for a legend."""
    state = "hidden" if hidden else "visible"
    path = f'<path class="{side} {state}" stroke-width="1.6" d="{_mark(side, 8, 8, 4.5)}"/>'
    return f'<svg class="mark" viewBox="0 0 16 16" aria-hidden="true">{path}</svg>'


def histogram_svg(title: str, names: Sequence[str], ticks: Sequence[str], counts: Sequence[int]) -> str:
    """Bars: `ticks` are written below them, `names` and counts appear on hover and are read out."""
    width, height = _CHART_WH
    left, floor = 42, height - 22
    step = (width - left) / len(counts)
    top = max(1, *counts)
    every = -(-len(ticks) // 13)  # those that have room
    parts = [
        f'<line class="axis" x1="{left}" y1="{floor}" x2="{width}" y2="{floor}"/>',
        f'<text x="{left - 6}" y="18" text-anchor="end">{top:,}</text>',
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">0</text>',
    ]
    for place, (name, tick, count) in enumerate(zip(names, ticks, counts)):
        x, bar = left + place * step, (floor - 12) * count / top
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{floor - bar:.1f}" width="{step - 2:.1f}" height="{bar:.1f}">'
            f"<title>{text(name)}: {count:,}</title></rect>"
        )
        if place % every == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{height - 6}" text-anchor="middle">{text(tick)}</text>')
    spoken = text("; ".join(f"{name}: {count:,}" for name, count in zip(names, counts)))
    label = f'role="img" aria-label="{text(title)}. {spoken}"'
    return f'<svg class="chart" viewBox="0 0 {width} {height}" {label}>{"".join(parts)}</svg>'
