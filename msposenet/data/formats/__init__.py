"""Readers of annotation files, one a format: `READERS[name](annotations, images)` gives `(Records, Report)`."""

from __future__ import annotations

from msposenet.data.formats.coco import read_coco

READERS = {"coco": read_coco}
