"""CrowdPose annotations (crowdpose_train.json, _val, _trainval, _test) as Records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from msposenet.data.formats.coco import read_coco
from msposenet.data.formats.common import fixed_skeleton
from msposenet.data.records import Records, Report
from msposenet.skeletons import CROWDPOSE_14, Skeleton

# The release says "head", copies of it "top_head": it is the top of the head.
ALIASES = MappingProxyType({"head": "head_top", "top_head": "head_top"})


def read_crowdpose(annotations: Path, images: Path, skeleton: Skeleton | None = None) -> tuple[Records, Report]:
    """Persons with labelled keypoints of the file `annotations`, whose pictures lie in the folder `images`.

    Its form is COCO's, so what `read_coco` leaves out, drops, notes and refuses is left out, dropped, noted and refused
    here; areas are those of the boxes. The joints must be those of `crowdpose14`, or of the skeleton given. The images'
    `crowdIndex`, by which the official score is split, is not part of the records.
    """
    skeleton = skeleton or CROWDPOSE_14
    records, report = read_coco(annotations, images, skeleton, aliases=ALIASES)
    fixed_skeleton(str(annotations), records.skeleton, skeleton)
    return records, replace(report, source="crowdpose")
