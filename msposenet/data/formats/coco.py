"""COCO keypoint annotations (person_keypoints_*.json, and any file of that form with its own joints) as Records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from msposenet.data.formats.coco_people import (
    A_SECOND_IMAGE,
    A_SECOND_PERSON,
    ANNOTATION,
    IMAGE,
    ImageRows,
    image_columns,
    keep_people,
    people_columns,
    repeated,
)
from msposenet.data.formats.coco_skeleton import category_skeleton
from msposenet.data.formats.common import Pictures
from msposenet.data.formats.document import Document
from msposenet.data.formats.fields import Numbered, Rows, listed
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import Skeleton

_NO_ALIASES = MappingProxyType({})


def read_coco(
    annotations: Path,
    images: Path,
    skeleton: Skeleton | None = None,
    *,
    aliases: Mapping[str, str] = _NO_ALIASES,
) -> tuple[Records, Report]:
    """Persons with labelled keypoints of the file `annotations`, whose pictures lie in the folder `images`.

    The skeleton is the one of the joint names in the file, after renaming them by `aliases` (lower case, underscores):
    `skeleton` where they are its names or there are none, a built-in one, or one made of the names. Crowds and persons
    without a labelled joint are left out; unusable boxes are skipped as damage, which `Report.enforce` judges. Boxes
    are clipped, which as in HRNet makes them 1 px smaller.
    Raises DataError naming file, annotation, value and remedy for everything that cannot be trusted. Whether the
    picture files exist is not asked here.
    """
    file = str(annotations)
    document = Document(annotations, {"images": IMAGE, "annotations": ANNOTATION}, ("categories",))
    category, categories = keypoint_category(document.rows("categories", "category"))
    skeleton, notes = category_skeleton(category, file, skeleton, aliases)
    pictures = Pictures(*document.columns("images", "image", partial(image_columns, folder=images)))
    if not len(pictures.ids):
        raise DataError(f"{file}: 'images' is empty; is it the right file?")
    # Each part of a list was looked through for repetitions by itself.
    Numbered(file, "image", pictures.ids).refuse(repeated(pictures.ids), lambda row: A_SECOND_IMAGE)
    people = document.columns(
        "annotations",
        "annotation",
        partial(
            people_columns,
            skeleton=skeleton,
            category=category["id"],
            categories=categories,
            images=ImageRows(pictures.ids),
        ),
    )
    items = Numbered(file, "annotation", people.ids)
    items.refuse(repeated(people.ids), lambda row: A_SECOND_PERSON)
    records, report = keep_people("coco", items, skeleton, pictures, people)
    return records, replace(report, warnings={**notes, **report.warnings})


def keypoint_category(rows: Rows) -> tuple[dict, np.ndarray]:
    """The category "person", or the only one there is; and all category ids."""
    ids, names = rows.integers("id"), rows.strings("name")
    rows.refuse(repeated(ids), lambda row: "a second category of this id; ids must differ")
    chosen = [row for row, name in enumerate(names) if name == "person"] or list(range(len(rows)))
    if len(chosen) != 1:
        raise DataError(
            f"{rows.file}: {len(rows)} categories ({listed(names)}); one must be 'person', or there must be only one"
        )
    return rows.items[chosen[0]], ids
