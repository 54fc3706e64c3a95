"""Time and memory of reading a large annotation file: a made-up one of COCO's form and COCO's proportions.

    python scripts/bench_reader.py --instances 600000
    python scripts/bench_reader.py --instances 600000 --json

The file (about 800 bytes a person: box, area, polygon, 17 joints, 2.2 persons a picture) is written to a temporary
folder; the reading process does nothing else, so its peak memory is that of the reader, Python and NumPy included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from msposenet.skeletons import COCO_17

PERSONS_AN_IMAGE = 2.2
VARIETY = 500  # different persons; the others are these on other pictures
LONGEST_POLYGON = 160  # numbers; 64 on average, as in COCO

READ = """
import json, sys, time
from pathlib import Path
from msposenet.data.formats import READERS

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

before = peak()
start, cpu_start = time.perf_counter(), time.process_time()
records, report = READERS["coco"](Path(sys.argv[1]), Path("images"))
seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
print(json.dumps({
    "instances": report.instances,
    "images": report.images,
    "seconds": seconds,
    "cpu_seconds": cpu_seconds,
    "peak_bytes": peak(),
    "peak_bytes_before": before,
    "column_bytes": sum(getattr(value, "nbytes", 0) for value in vars(records).values()),
    "joints_labelled": int((records.keypoints[..., 2] > 0).sum()),
    "id_sum": int(records.annotation_ids.sum()),
}))
"""


def people(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """The JSON of VARIETY persons up to `image_id` and `id`, and how many joints of each are labelled."""
    texts, labelled = [], []
    for _ in range(VARIETY):
        visibility = rng.choice(3, size=17, p=[0.35, 0.1, 0.55])
        visibility[rng.integers(17)] = 2
        keypoints = np.stack([rng.integers(0, 640, 17), rng.integers(0, 480, 17), visibility], axis=1)
        keypoints[visibility == 0] = 0
        polygon = rng.uniform(0, 480, 2 * rng.integers(6, LONGEST_POLYGON // 2 - 6)).round(2).tolist()
        box = [*rng.uniform(0, 300, 2).round(2).tolist(), *rng.uniform(20, 170, 2).round(2).tolist()]
        person = {
            "segmentation": [polygon] if rng.random() < 0.8 else [],
            "num_keypoints": int((visibility > 0).sum()),
            "area": round(0.6 * box[2] * box[3], 4),
            "iscrowd": 0,
            "keypoints": keypoints.ravel().tolist(),
            "bbox": box,
            "category_id": 1,
        }
        texts.append(json.dumps(person, separators=(",", ":"))[:-1])
        labelled.append(person["num_keypoints"])
    return texts, labelled


def write(path: Path, instances: int, seed: int = 0) -> dict:
    """Write a file of `instances` persons; returns what a reader must find in it."""
    rng = np.random.default_rng(seed)
    texts, labelled = people(rng)
    images = max(1, round(instances / PERSONS_AN_IMAGE))
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_17.joints)}
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info":{"description":"made up"},"images":[')
        for number in range(1, images + 1):
            file.write("," * (number > 1))
            file.write(
                f'{{"license":{number % 8},"file_name":"{number:012d}.jpg","coco_url":"http://images.example.org/'
                f'train/{number:012d}.jpg","height":480,"width":640,"date_captured":"2013-11-14 17:02:52",'
                f'"flickr_url":"http://farm.example.org/7000/{number:010d}_9db5c7d5a1_z.jpg","id":{number}}}'
            )
        file.write('],"annotations":[')
        for number in range(instances):
            file.write("," * (number > 0))
            file.write(f'{texts[number % VARIETY]},"image_id":{1 + number % images},"id":{number + 1}}}')
        file.write(f'],"categories":[{json.dumps(category)}]}}')
    return {
        "instances": instances,
        "images": images,
        "joints_labelled": sum(labelled[number % VARIETY] for number in range(instances)),
        "id_sum": instances * (instances + 1) // 2,
    }


def measure(instances: int) -> dict:
    """Seconds, peak memory and contents of one read in a process of its own; raises when the contents are wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.json"
        expected = write(path, instances)
        done = subprocess.run([sys.executable, "-c", READ, str(path)], stdout=subprocess.PIPE, check=True)
        found = {**json.loads(done.stdout), "file_bytes": os.path.getsize(path)}
    wrong = {key: (found[key], value) for key, value in expected.items() if found[key] != value}
    if wrong:
        raise SystemExit(f"the reader is wrong, (found, written): {wrong}")
    return {**found, "instances_per_second": instances / found["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=600_000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a sentence")
    arguments = parser.parse_args()
    found = measure(arguments.instances)
    if arguments.json:
        print(json.dumps(found))
        return
    print(
        f"{found['instances']:,} instances on {found['images']:,} images ({found['file_bytes'] / 1e6:,.0f} MB) read in "
        f"{found['seconds']:.1f} s ({found['instances_per_second']:,.0f}/s; {found['cpu_seconds']:.1f} s of one core)"
    )
    print(
        f"peak memory {found['peak_bytes'] / 1e6:,.0f} MB, {found['peak_bytes_before'] / 1e6:,.0f} MB of it before the "
        f"read; the columns that are left take {found['column_bytes'] / 1e6:,.0f} MB"
    )


if __name__ == "__main__":
    main()
