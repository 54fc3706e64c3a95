"""What the two forms of PoseTrack share: where the frames lie, boxes around joints, frames that nobody has labelled."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msposenet import geometry
from msposenet.data.formats.coco_people import People, box_areas, keep_people
from msposenet.data.formats.common import FILTERED, NOTED, Pictures, Reason, picture_paths
from msposenet.data.formats.fields import Numbered, Rows
from msposenet.data.records import SHOWN, Records, Report, Tally
from msposenet.skeletons import Skeleton

PREFIX = "images/"
BOX_MARGIN = 0.15  # of the joints' extent on each side: 1.3 of it overall, as in poseval's convert.py


@dataclass(frozen=True)
class FrameFolder:
    """The folder that the names of frames are relative to.

    The names begin with "images/". That is left out where the folder given is itself called so and holds no other
    folder of that name: the data set's root and its folder `images` then give the same paths.
    """

    path: Path

    def paths(self, rows: Rows, key: str, names: list[str]) -> np.ndarray:
        """Paths (I,) as bytes of the frames `names`; DataError for a name that leads out of the folder."""
        if self._inside():
            names = [name[len(PREFIX) :] if name.startswith(PREFIX) else name for name in names]
        return picture_paths(rows, key, names, self.path)

    def _inside(self) -> bool:
        return os.path.basename(os.path.abspath(self.path)) == PREFIX[:-1] and not (self.path / PREFIX).is_dir()


def labelled_people(
    file: str,
    skeleton: Skeleton,
    frames: Pictures,
    labelled: np.ndarray,
    people: People,
    notes: Iterable[Reason] = (),
) -> tuple[Records, Report]:
    """Records and report of the people on the `labelled` (I,) ones of all frames; only those are in the image table.

    Who has no box with width and height gets that of the labelled joints, enlarged by BOX_MARGIN.
    """
    without = (people.boxes[:, 2:] <= 0).any(axis=1)
    around = geometry.joint_boxes(people.keypoints, frames.sizes[people.image_index], BOX_MARGIN)
    boxes = np.where(without[:, None], around, people.boxes)
    people = people._replace(boxes=boxes, areas=np.where(people.no_area, box_areas(boxes), people.areas))
    reasons = [
        (FILTERED, "on a frame that is marked as not labelled", ~labelled[people.image_index]),
        (
            FILTERED,
            "joints on a line or outside the picture, no box around them",
            without & (boxes[:, 2:] <= 0).any(axis=1),
        ),
        *notes,
        (NOTED, f"no box, taken from the joints, {BOX_MARGIN:.0%} larger on each side", without),
    ]
    items = Numbered(file, "annotation", people.ids)
    records, report = keep_people("posetrack", items, skeleton, frames, people, reasons, cut=without)
    if not labelled.all():
        left_out = Tally(int((~labelled).sum()), tuple(map(str, frames.ids[~labelled][:SHOWN])))
        report = replace(
            report, images=int(labelled.sum()), filtered={"frame without labels": left_out, **report.filtered}
        )
    place = np.cumsum(labelled) - 1
    records = replace(
        records,
        image_paths=records.image_paths[labelled],
        image_ids=records.image_ids[labelled],
        image_sizes=records.image_sizes[labelled],
        image_index=place[records.image_index].astype(np.int32),
    )
    records.check()
    return records, report
