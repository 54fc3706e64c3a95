"""The look of the data page."""

from __future__ import annotations

from msposenet.report.drawing import COLORS

_SIDES = "".join(
    f"line.{side}{{stroke:{color}}}path.{side}{{fill:{color};stroke:#fff}}path.{side}.hidden{{fill:#fff;stroke:{color}}}"
    for side, color in COLORS.items()
)

STYLE = (
    """
:root { --ink: #1d2733; --soft: #5b6673; --line: #dde3ea; --paper: #fff; --back: #f5f7f9;
  --good: #1e7b46; --warn: #8a5a00; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 26px 0 8px; }
h4 { font-size: 14px; margin: 0 0 6px; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 6px 0; max-width: 82ch; }
a { color: #1f5fbf; }
code, .path { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; margin: 22px 0 0;
  padding: 20px 24px 24px; }
header.set { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: baseline; }
.pill { border-radius: 20px; padding: 1px 11px; font-size: 13px; font-weight: 600; white-space: nowrap; }
.good { background: #e3f3e9; color: var(--good); }
.warn { background: #fdf0d5; color: var(--warn); }
.bad { background: #fbe4e2; color: var(--bad); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 4px; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 7px 14px; min-width: 118px; }
.tile b { display: block; font-size: 20px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { font-size: 13px; color: var(--soft); }
ul { margin: 6px 0; padding-left: 20px; }
li { margin: 3px 0; overflow-wrap: anywhere; }
ul.warnings { list-style: none; padding: 0; }
ul.warnings li { border-left: 4px solid #e0a100; background: #fffaf0; padding: 5px 12px; margin: 6px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.wide { overflow-wrap: anywhere; min-width: 180px; }
.share { display: flex; height: 12px; width: 190px; margin-top: 5px; background: #edf1f5; border-radius: 3px;
  overflow: hidden; }
.share i { display: block; background: #3a6ea5; }
.share i + i { background: #a9c4e0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 10px 34px; }
.chart { width: 100%; max-width: 520px; height: auto; font-size: 11px; fill: var(--soft); }
.chart .bar { fill: #3a6ea5; }
.chart .bar:hover { fill: #e65a28; }
.chart .axis { stroke: #9aa6b2; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: 6px; }
svg.mark { width: 21px; height: 21px; flex: none; }
.person { border-top: 1px solid var(--line); padding: 14px 0 4px; }
.shots { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
figure { margin: 0; width: min-content; }
.shot { position: relative; }
.shot img { display: block; width: 100%; height: 100%; border-radius: 4px; background: #ccc; }
.shot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.shot line { stroke-opacity: 0.85; stroke-linecap: round; }
.shot path:hover { stroke: #000; }
.shot .box { fill: none; stroke: #ffe14d; stroke-dasharray: 6 4; }
table.damage { table-layout: fixed; min-width: 640px; }
table.damage th:first-child { width: 46%; }
table.damage th:nth-child(2) { width: 130px; }
td.path { font-size: 12.5px; }
figcaption { font-size: 12.5px; line-height: 1.35; color: var(--soft); margin-top: 4px; min-width: 110px; }
figcaption span { white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; margin: 22px 0 8px; }
"""
    + _SIDES
)
