"""The programs of docs/export.md: without msposenet, in a process of their own, they give what Predictor gives."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from documents import blocks
from people_set import images_of, people_set

from msposenet import Predictor
from msposenet.config import build_config
from msposenet.export.crops import parity_crops
from msposenet.export.folder import export_model
from msposenet.models.build import build_codec, build_network
from msposenet.models.initialise import initialise
from msposenet.skeletons import COCO_17

PROGRAMS = {
    next(package for package in ("onnxruntime", "mxnet") if f"import {package}" in block.text): block
    for block in blocks("docs/export.md", "python")
}
# Before the program: nothing of this package can be imported, and NumPy is what MXNet wants (docs/install.md).
BEFORE = """
import sys
sys.modules["msposenet"] = None
import numpy
for name, kind in dict(bool=bool, int=int, float=float, object=object, str=str, complex=complex).items():
    name in numpy.__dict__ or setattr(numpy, name, kind)
"""
AFTER = """
import json
print(json.dumps([keypoints.tolist(), sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module", params=["standard", "unbiased"])
def folder(request, tmp_path_factory):
    """person.jpg and an export of every form, in a reader's folder."""
    folder = tmp_path_factory.mktemp("reader")
    name = "hrnet_w8_small" if request.param == "standard" else "mshrnet_w8x1_small"
    content = {"data": {"input": [96, 64]}, "model": {"name": name}, "codec": {"convention": request.param}}
    config = build_config(content, "test")
    net = build_network(config, COCO_17)
    initialise(net, seed=3)
    net.final_layer.weight.set_data(net.final_layer.weight.data() * 1000)  # peaks that stand out
    crops, _ = parity_crops(config, COCO_17)
    export_model(
        net, build_codec(config), COCO_17, folder / "export", crops, model=name, enlarge=1.25, forms=("symbol", "onnx")
    )
    shutil.copy(sorted(images_of(people_set(10)).iterdir())[0], folder / "person.jpg")
    return folder


@pytest.mark.parametrize("package", ["mxnet", "onnxruntime"])
def test_a_stand_alone_program_gives_what_the_predictor_gives(folder, package):
    program = PROGRAMS[package].text
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + program + AFTER], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    found, modules = json.loads(last)
    assert [line.split(":")[0] for line in lines if ": " in line][-17:] == list(COCO_17.joints)
    assert {"mxnet", "onnxruntime"} & set(modules) == {package}
    box = ast.literal_eval(re.search(r"picture_to_crop\((\[.*\])\)", program)[1])
    wanted = Predictor(folder / "export")(folder / "person.jpg", boxes=[box]).keypoints[0]
    assert np.ptp(wanted[:, :2], axis=0).min() > 20
    np.testing.assert_allclose(found, wanted, atol=0.01, rtol=1e-5)


def test_the_programs_are_short():
    assert PROGRAMS.keys() == {"mxnet", "onnxruntime"}
    for block in PROGRAMS.values():
        assert sum(bool(line.strip()) for line in block.text.splitlines()) <= 32
