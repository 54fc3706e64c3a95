"""The part of the data page about one set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msposenet.config import Config
from msposenet.data.doctor_findings import CheckedSet
from msposenet.report.data_samples import SamplePerson
from msposenet.report.drawing import histogram_svg, pose_svg
from msposenet.report.escape import text
from msposenet.skeletons import Skeleton

REPORT = "report.json"
SHOWN_ITEMS = 50
_REGION_WH, _CROP_WH = (320, 230), (180, 230)  # px on the page: four crops fit beside the region

_SIDE_HELP = {
    "crossed": "left ones closer to the right ones",
    "reversed": "exchanged in persons who face the camera",
    "facing": "left on the picture's right",
    "height": "one higher than the other, in box heights",
}


def verdict(damaged: int, warned: int) -> str:
    words = []
    if damaged:
        words.append(f'<span class="pill bad">{damaged:,} damaged</span>')
    if warned:
        words.append(f'<span class="pill warn">{warned:,} {"warning" if warned == 1 else "warnings"}</span>')
    return " ".join(words) or '<span class="pill good">clean</span>'


def warnings_list(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{text(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def plain_list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def set_section(number: int, checked: CheckedSet, config: Config, pictured: Sequence[str]) -> str:
    source = checked.set.source
    head = (
        f'<section id="set{number}"><header class="set"><h2>{text(checked.set.title)}</h2>'
        f"{verdict(checked.damaged, len(checked.warnings))}</header>"
        f'<p class="path soft">{text(source.annotations)}<br>{text(source.images)}</p>'
    )
    parts = [head]
    figures = checked.figures
    if figures:
        parts.append(_tiles(figures))
    parts += [warnings_list(checked.warnings), _damage(checked)]
    if figures:
        if pictured:
            parts.append(f"<h3>Sample persons</h3>{_flip_note(checked, config)}{''.join(pictured)}")
        parts += [_remarks(figures), _joints(checked), _charts(figures), _sides(checked)]
    return "".join(parts) + "</section>\n"


def _tiles(figures: dict[str, Any]) -> str:
    joints = sum(joint["labelled"] for joint in figures["joints"])
    values = (
        (f"{figures['pictures']:,}", "pictures"),
        (f"{figures['pictures_unusable']:,}", "of them unusable"),
        (f"{figures['pictures_without_persons']:,}", "without persons"),
        (f"{figures['persons']:,}", "persons"),
        (f"{joints / max(1, figures['persons']):.1f}", "labelled joints each"),
        (f"{figures['joints_outside_picture_share']:.2%}", "of them off the picture"),
        (f"{figures['person_size_px']['percentiles']['50']:.0f} px", "median person"),
    )
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in values)
    return f'<div class="tiles">{tiles}</div>'


def _damage(checked: CheckedSet) -> str:
    if not checked.damage:
        return ""
    kinds = ", ".join(f"{count:,} &times; {text(kind)}" for kind, count in checked.damage_kinds().items())
    rows = "".join(
        f'<tr><td class="wide path">{text(item.file)}</td><td>{text(item.item)}</td>'
        f'<td class="wide">{text(item.reason)}</td></tr>'
        for item in checked.damage[:SHOWN_ITEMS]
    )
    rest = len(checked.damage) - SHOWN_ITEMS
    more = f'<p class="soft">and {rest:,} more, all in <a href="{REPORT}">{REPORT}</a></p>' if rest > 0 else ""
    head = "<tr><th>file</th><th>item</th><th>reason</th></tr>"
    table = f'<div class="scroll"><table class="damage"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return f"<h3>Damaged: {kinds}</h3>{table}{more}"


def _remarks(figures: dict[str, Any]) -> str:
    lines = [f"left out: {reason}: {count:,}" for reason, count in figures["left_out"].items()]
    lines += [f"{reason}: {count:,}" for reason, count in figures["assumed_or_repaired"].items()]
    if figures["boxes_reaching_out"]:
        lines.append(f"boxes that reach out of their picture: {figures['boxes_reaching_out']:,}")
    return f"<h3>Reading and mapping</h3>{plain_list([*lines, *figures['notes']]) or '<p>Nothing to remark.</p>'}"


def _joints(checked: CheckedSet) -> str:
    persons = max(1, checked.figures["persons"])
    rows = []
    for joint in checked.joints:
        visible, hidden = joint.visible / persons, joint.hidden / persons
        taken = "" if joint.taken_from == (joint.name,) else " + ".join(joint.taken_from) or "not in the set"
        bar = f'<i style="width:{visible:.2%}"></i><i style="width:{hidden:.2%}"></i>'
        rows.append(
            f'<tr><td class="wide">{text(joint.name)}</td><td>{text(taken)}</td>'
            f'<td class="n">{joint.labelled / persons:.1%}</td><td><div class="share">{bar}</div></td>'
            f'<td class="n">{joint.visible:,}</td><td class="n">{joint.hidden:,}</td>'
            f'<td class="n">{joint.outside:,}</td><td class="n">{joint.weight:g}</td></tr>'
        )
    names = ("joint", "taken from", "labelled", "visible, hidden", "visible", "hidden", "off picture", "weight")
    head = "".join(f"<th{'' if at in (0, 1, 3) else ' class=n'}>{name}</th>" for at, name in enumerate(names))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h3>Joints</h3><div class="scroll">{table}</div>'


def _charts(figures: dict[str, Any]) -> str:
    edges, counts = figures["person_size_px"]["edges"], figures["person_size_px"]["counts"]
    ranges = [f"{low} to {high} px" for low, high in zip(edges, edges[1:])] + [f"{edges[-1]} px and more"]
    sizes = histogram_svg("Persons by the longer side of their box", ranges, [f"{edge}" for edge in edges], counts)
    labelled = figures["labelled_joints"]
    names = [f"{count} joints" for count in range(len(labelled))]
    joints = histogram_svg("Persons by labelled joints", names, [str(at) for at in range(len(labelled))], labelled)
    return (
        f'<div class="charts"><div><h3>Longer side of the box, px (from)</h3>{sizes}</div>'
        f"<div><h3>Labelled joints of a person</h3>{joints}</div></div>"
    )


def _sides(checked: CheckedSet) -> str:
    rows = []
    for check in checked.sides:
        verdict = '<span class="pill warn">suspicious</span>' if check.suspicious else ""
        at_least = "at least" if check.kind == "facing" else "at most"
        rows.append(
            f'<tr><td class="wide">{text(check.what)}</td><td>{_SIDE_HELP[check.kind]}</td>'
            f'<td class="n">{check.share:.1%}</td><td>{at_least} {check.bound:.0%}</td>'
            f'<td class="n">{check.persons:,}</td><td>{verdict}</td></tr>'
        )
    if not rows:
        return ""
    head = (
        "<tr><th>joints</th><th>what</th><th class=n>share</th><th>expected</th><th class=n>persons</th><th></th></tr>"
    )
    note = "A swapped pair or a wrong flip pair stands far beyond its bound; few persons give no verdict."
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    state = " open" if any(check.suspicious for check in checked.sides) else ""
    return f'<details{state}><summary>Left and right</summary><p class="soft">{note}</p>{table}</details>'


def _flip_note(checked: CheckedSet, config: Config) -> str:
    if checked.set.part == "train" and config.augmentation.flip in (0, 1):
        kind = "no" if config.augmentation.flip == 0 else "every"
        return f'<p class="soft">augmentation.flip is {config.augmentation.flip:g}: {kind} crop is mirrored.</p>'
    return ""


def person_article(person: SamplePerson, checked: CheckedSet, addresses: Sequence[str]) -> str:
    skeleton: Skeleton = checked.set.records.skeleton
    name = f"annotation {person.annotation_id}"
    shots = []
    for at, (shot, address) in enumerate(zip(person.shots, addresses)):
        most_wide, most_high = _CROP_WH if at else _REGION_WH
        height, width = shot.pixels.shape[:2]
        scale = min(most_wide / width, most_high / height)
        style = f"width:{scale * width:.0f}px;height:{scale * height:.0f}px"
        labelled = int((shot.joints[:, 2] > 0).sum())
        alt = text(f"{name}, {', '.join(shot.words)}, {labelled} labelled joints")
        caption = " · ".join(f"<span>{text(word)}</span>" for word in shot.words)
        shots.append(
            f'<figure><div class="shot" style="{style}">'
            f'<img src="{address}" width="{width}" height="{height}" loading="lazy" alt="{alt}">'
            f"{pose_svg(shot, skeleton, scale)}</div><figcaption>{caption}</figcaption></figure>"
        )
    return (
        f'<article class="person"><h4>{name} <span class="path soft">{text(person.path)}</span></h4>'
        f'<div class="shots">{"".join(shots)}</div></article>'
    )
