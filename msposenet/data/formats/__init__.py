"""Readers of annotation files, one a format: `READERS[name](annotations, images)` gives `(Records, Report)`."""

from __future__ import annotations

from msposenet.data.formats.aic import read_aic
from msposenet.data.formats.coco import read_coco
from msposenet.data.formats.crowdpose import read_crowdpose
from msposenet.data.formats.lsp import read_lsp
from msposenet.data.formats.mpii import read_mpii
from msposenet.data.formats.posetrack import read_posetrack

READERS = {
    "coco": read_coco,
    "mpii": read_mpii,
    "aic": read_aic,
    "crowdpose": read_crowdpose,
    "posetrack": read_posetrack,
    "lsp": read_lsp,
}
