"""The HTML page of a data check: one file and its pictures, readable from disk without network or scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2

from msposenet.config import Config
from msposenet.data.doctor_findings import CheckedSet, Diagnosis
from msposenet.errors import ConfigError, PoseError
from msposenet.report.data_samples import Shot, sample_persons
from msposenet.report.data_sections import REPORT, person_article, plain_list, set_section, verdict, warnings_list
from msposenet.report.data_style import STYLE
from msposenet.report.drawing import mark_svg
from msposenet.report.escape import text
from msposenet.storage import (
    make_folder,
    open_input,
    probe_writable,
    remove_quietly,
    storage_error,
    write_json_atomic,
    write_text_atomic,
)

INDEX, PICTURES = "index.html", "pictures"
MADE_BY = "msposenet check-data"
_PICTURE_NAME = "set{:02d}_person{:03d}_{}.jpg"
_OWN_PICTURE = re.compile(r"set\d+_person\d+_\d+\.jpg")
_JPEG_QUALITY = 90
_BYTES_A_PERSON = 400_000  # of pictures, generously

# No script runs and nothing is loaded from elsewhere, whatever a file name may try.
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"


def open_folder(folder: Path, persons: int) -> Path:
    """The folder for a page, created; refused when it holds something else. Raises ConfigError and StorageError."""
    try:
        ours = not folder.exists() or (folder.is_dir() and _is_ours(folder))
    except OSError as error:
        raise storage_error(folder, "read", error) from error
    if not ours:
        raise ConfigError(f"{folder}: holds something else than a report of check-data; name another with --out")
    probe_writable(folder, 5_000_000 + persons * _BYTES_A_PERSON)
    make_folder(folder / PICTURES)
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether the folder is empty, holds a report, or what a check that was broken off left behind."""
    names = {path.name for path in folder.iterdir()}
    for name in {INDEX, REPORT} & names:
        with open_input(folder / name, ConfigError) as file:
            return MADE_BY.encode() in file.read(400)
    pictures = (folder / PICTURES).iterdir() if PICTURES in names else ()
    return names <= {PICTURES} and all(_OWN_PICTURE.fullmatch(path.name) for path in pictures)


def write_page(diagnosis: Diagnosis, config: Config, name: str, folder: Path, samples: int, seed: int) -> None:
    """index.html, report.json and pictures/ in `folder`, which `open_folder` has opened. Raises StorageError."""
    for old in (folder / PICTURES).iterdir():
        if _OWN_PICTURE.fullmatch(old.name):
            remove_quietly(old)
    sections = []
    for number, checked in enumerate(diagnosis.sets):
        persons = sample_persons(checked, config, samples, seed)
        pictured = [
            person_article(
                person, checked, [_save(shot, folder, number, row, at) for at, shot in enumerate(person.shots)]
            )
            for row, person in enumerate(persons)
        ]
        sections.append(set_section(number, checked, config, pictured))
    write_text_atomic(folder / INDEX, _page(diagnosis, name, sections))
    content = {"made_by": MADE_BY, "config": name, **diagnosis.as_dict(items=True)}
    write_json_atomic(folder / REPORT, content)


def _save(shot: Shot, folder: Path, number: int, row: int, at: int) -> str:
    """The address of the shot's pixels on the page."""
    name = _PICTURE_NAME.format(number, row, at)
    fine, data = cv2.imencode(".jpg", shot.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not fine:
        raise PoseError(f"{name}: OpenCV could not encode the picture")
    try:  # not flushed to the disk one by one: hundreds would take a minute, and can be drawn again
        (folder / PICTURES / name).write_bytes(data.tobytes())
    except OSError as error:
        raise storage_error(folder / PICTURES / name, "written", error) from error
    return f"{PICTURES}/{name}"


def _page(diagnosis: Diagnosis, name: str, sections: Sequence[str]) -> str:
    pictures = sum(checked.figures.get("pictures", 0) for checked in diagnosis.sets)
    persons = sum(checked.figures.get("persons", 0) for checked in diagnosis.sets)
    skeleton = diagnosis.skeleton
    joints = f", skeleton {text(skeleton.name)} of {skeleton.num_joints} joints" if skeleton else ""
    warnings = warnings_list(diagnosis.warnings)
    shared = [each.sentence() for each in diagnosis.shared if not each.leak]
    notes = f"<h3>Pictures in several sets</h3>{plain_list(shared)}" if shared else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{MADE_BY}">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data check: {text(name)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Data check</h1>
<p class="path">{text(name)}</p>
<p>{verdict(diagnosis.damaged, diagnosis.warned)} {len(diagnosis.sets)} sets, {pictures:,} pictures, {persons:,}
persons{joints}. Every item and figure is in <a href="{REPORT}">{REPORT}</a>.</p>
{warnings}
{_overview(diagnosis.sets)}
{notes}
{_reading_help()}
{"".join(sections)}
</main>
</body>
</html>
"""


def _overview(sets: Sequence[CheckedSet]) -> str:
    rows = "".join(
        f'<tr><td class="wide"><a href="#set{number}">{text(checked.set.title)}</a></td>'
        f"<td>{text(checked.set.source.format)}</td>"
        f'<td class="n">{checked.figures.get("pictures", 0):,}</td>'
        f'<td class="n">{checked.figures.get("persons", 0):,}</td>'
        f"<td>{verdict(checked.damaged, len(checked.warnings))}</td></tr>"
        for number, checked in enumerate(sets)
    )
    head = '<tr><th>set</th><th>format</th><th class="n">pictures</th><th class="n">persons</th><th>found</th></tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _reading_help() -> str:
    legend = "".join(
        f"<li>{mark_svg(side)} {words}</li>"
        for side, words in (("left", "the person's left"), ("right", "the person's right"), ("middle", "neither"))
    )
    legend += f"<li>{mark_svg('left', hidden=True)} labelled but hidden</li>"
    return f"""<section>
<h2>How to read the sample persons</h2>
<ul class="legend">{legend}</ul>
<p>First the picture as annotated, with the box (dashed), then crops as the network gets them. Of a training set they
are drawn as in training, mirrored and not; of a validation set they are the plain crop and its mirror image. Joints are
those of the target skeleton; point at one for its name.</p>
<p><b>What to look for.</b> A person who faces you has green (circles) on your right and orange (squares) on your left,
in mirrored crops too: a mirrored picture shows a person whose other arm is now the left one. Where the colours are the
other way round in mirrored crops only, flip pairs are wrong; where they are so everywhere, the mapping is, or the
annotators took the picture's left for the person's. Marks that lie beside their joints everywhere come from
coordinates that belong to pictures of another size or rotation.</p>
</section>
"""
