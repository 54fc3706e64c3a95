"""Pages of documentation taken apart, and run in a folder laid out for their reader.

Blocks run as they are written, in this process. Only `msposenet train` and `msposenet eval` get further options,
`--set ...` from `smaller`, so that they end in seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from other_forms import Drawn, write_aic, write_crowdpose, write_lsp, write_mpii, write_posetrack18
from people_set import images_of, people_set
from torch_pickles import write_pth

from msposenet.cli.main import run
from msposenet.config import load_config
from msposenet.models.initialise import initialise
from msposenet.models.zoo import get_model
from msposenet.weights import get_arrays
from msposenet.weights.official import official_name

PROJECT = Path(__file__).resolve().parents[1]


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def read(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    text = read(page)
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [Block(page, text[: fence.start()].count("\n") + 2, fence[1], fence[2]) for fence in fences]
    return [block for block in found if block.language in languages]


def table(page: str, first_head: str) -> list[list[str]]:
    """Cells of the rows below the table head that begins with `first_head`."""
    lines = read(page).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def plain(text: str, beginning: str) -> list[str]:
    """Lines of the plain block that begins so."""
    return re.search(rf"^```\n({re.escape(beginning)}.*?)^```$", text, re.MULTILINE | re.DOTALL)[1].splitlines()


# Running pages


_NETWORK = "--model hrnet_w8_small --input 64x64 --rounds 1 --turn 0"
_SMALLER_BENCH = {
    "inference": f"{_NETWORK} --batch 1 --only fused".split(),
    "training": f"{_NETWORK} --batch 2 --only msposenet".split(),
    "decode": ["--batch", "2", "--joints", "3", "--heatmap", "32x24", "--rounds", "1", "--turn", "0"],
    "evaluation": ["--images", "20", "--results", "60", "--rounds", "1", "--turn", "0"],
}


def smaller(arguments: list[str]) -> list[str]:
    """The `--set` options with which a documented command ends in seconds; a resumed run has a second epoch to do."""
    if arguments[0] == "eval":
        return ["--set", "test.batch_size=2"]
    if arguments[0] == "export" and "--int8" in arguments:
        return ["--calibration", "4"]
    if arguments[0] == "check-data":
        return ["--workers", "1", "--samples", "1"]
    if arguments[0] == "pack" and "--verify" not in arguments:
        return ["--workers", "0", "--set", "data.input=[64,64]"]
    if arguments[0] == "bench":
        return _SMALLER_BENCH.get(arguments[1], [])
    if arguments[0] == "launch":
        return smaller(arguments[arguments.index("--") + 1 :])
    if arguments[0] != "train":
        return []
    target = Path(arguments[1])
    config = load_config(target / "config.yaml" if target.is_dir() else target)
    name = config.model.name
    if not name.endswith("_small"):
        name = re.sub(r"_w\d+", "_w8", name) + "_small"
    changes = {
        "model.name": name,
        "data.input": [64, 64],
        "data.workers": 0,
        "train.epochs": 2 if "--resume" in arguments else 1,
        "train.lr_drops": [1],
        "train.batch_size": 8,
        "test.batch_size": 8,
    }
    for part, pictures in (("train", [1, 8]), ("val", [9, 10])):  # of ten drawn ones
        sources = getattr(config.data, part)
        for number, source in enumerate(sources):
            if source.pictures is not None:
                changes[f"data.{part}{f'.{number}' if len(sources) > 1 else ''}.pictures"] = pictures
    return [text for key, value in changes.items() for text in ("--set", f"{key}={json.dumps(value)}")]


def run_command(line: str, place: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0].startswith("scripts/"):
        script = PROJECT / words[0]
        assert os.access(script, os.X_OK), f"{place}: {script} cannot be executed"
        checker = [sys.executable, "-m", "py_compile"] if script.suffix == ".py" else ["bash", "-n"]
        subprocess.run([*checker, str(script)], check=True)
        return
    assert words[0] == "msposenet", f"{place}: no way to run {line!r}"
    arguments = words[1:] + smaller(words[1:])
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        patch.setattr(sys, "argv", ["msposenet", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
    assert not ended.value.code, f"{place}: {' '.join(arguments)} ended with {ended.value.code}:\n{output.getvalue()}"


def run_block(block: Block) -> dict:
    place = f"{block.page}, line {block.line}"
    if block.language == "bash":
        for line in block.text.replace("\\\n", " ").splitlines():
            run_command(line, place)
        return {}
    namespace: dict = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.text, place, "exec"), namespace)
    return namespace


def run_page(page: str, folder: Path) -> None:
    with inside(folder):
        for block in blocks(page, "bash", "python"):
            run_block(block)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        yield


def lay_out(folder: Path) -> None:
    """Small files under all the names that the pages presume."""
    shutil.copytree(PROJECT / "configs", folder / "configs")
    (folder / "hosts").write_text("127.0.0.1\n")
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"  # to this machine without a server: a real one is asked in test_several_hosts.py
    ssh.write_text('#!/bin/sh\nwhile [ "$1" = -o ]; do shift 2; done\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    coco = folder / "data" / "coco"
    for split, pictures, seed in (("train", 10, 7), ("val", 4, 8)):
        source = people_set(pictures, seed)
        shutil.copytree(images_of(source), coco / "images" / f"{split}2017")
        (coco / "annotations").mkdir(exist_ok=True)
        shutil.copy(source, coco / "annotations" / f"person_keypoints_{split}2017.json")
    own = folder / "data" / "own"
    shutil.copytree(coco / "images" / "train2017", own / "images")
    content = (coco / "annotations" / "person_keypoints_train2017.json").read_text()
    (own / "annotations").mkdir()
    for split in ("train", "val"):
        (own / "annotations" / f"{split}.json").write_text(json.dumps(with_own_joints(json.loads(content))))
    people = json.loads((coco / "annotations" / "person_keypoints_val2017.json").read_text())["annotations"]
    detections = [
        {key: person[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for person in people
    ]
    (coco / "person_detection_results").mkdir()
    file = coco / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json"
    file.write_text(json.dumps(detections))
    shutil.copy(coco / "images" / "train2017" / "000000000001.jpg", folder / "person.jpg")
    lay_out_other_sets(folder / "data")
    with inside(folder):
        run_command(
            "msposenet train configs/mshrnet_w48x2_coco_384x288.yaml --run msposenet-demo/run", "the demo's run"
        )


def lay_out_other_sets(data: Path) -> None:
    """Drawn people under the names of the other sets' releases."""
    train, val = Drawn(people_set(10, 7)), Drawn(people_set(4, 8))
    # One folder of pictures for both parts, as in the releases: the same people stand in for both.
    for name in ("train.json", "valid.json"):
        write_mpii(train, data / "mpii" / "annotations" / name, data / "mpii" / "images")
    for drawn, split, date in ((train, "train", "20170909"), (val, "validation", "20170911")):
        name = f"keypoint_{split}_annotations_{date}.json"
        write_aic(drawn, data / "aic" / "annotations" / name, data / "aic" / "images" / split)
    for split in ("trainval", "test"):
        annotations = data / "crowdpose" / "annotations" / f"mmpose_crowdpose_{split}.json"
        write_crowdpose(train, annotations, data / "crowdpose" / "images")
    posetrack = data / "posetrack18"
    write_posetrack18(val, posetrack / "annotations" / "val", posetrack / "images")
    write_lsp(train, data / "lsp_extended" / "joints.mat", data / "lsp_extended" / "images")


def with_own_joints(content: dict) -> dict:
    """The nose and both hands under names of one's own."""
    content["categories"][0].update(keypoints=["tip", "left_hand", "right_hand"], skeleton=[[1, 2], [1, 3]])
    for person in content["annotations"]:
        joints = np.array(person["keypoints"]).reshape(17, 3)[[0, 9, 10]]
        person.update(keypoints=joints.ravel().tolist(), num_keypoints=int((joints[:, 2] > 0).sum()))
    return content


def publish_weights(path: Path) -> None:
    """A file of HRNet W32 as PyTorch saves it."""
    net = get_model("hrnet_w32")
    initialise(net)
    write_pth(path, {official_name(name): array for name, array in get_arrays(net).items()})
