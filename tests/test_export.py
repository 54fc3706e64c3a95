"""Exported graphs: without the model code, equal to the network, refused when they are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from people_set import images_of, people_set

from msposenet import Predictor
from msposenet.codecs import GaussianCodec, OffsetCodec
from msposenet.data.synthetic import render_scene
from msposenet.errors import CheckpointError, ConfigError, ExportError
from msposenet.export.symbol import export_symbol
from msposenet.geometry import Convention, boxes_to_crops, cut_crops
from msposenet.inference.topdown import TopDown
from msposenet.models.initialise import initialise
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.weights import get_arrays, set_arrays

INPUT, HEATMAP = (64, 96), (16, 24)
STANDARD, UNBIASED = Convention.STANDARD, Convention.UNBIASED

CODECS = {
    "offset": OffsetCodec(INPUT, HEATMAP, UNBIASED, radius_factor=0.12, kernel=3),
    "offset plain": OffsetCodec(INPUT, HEATMAP, UNBIASED, radius_factor=0.12, kernel=1),
    "quarter": GaussianCodec(INPUT, HEATMAP, STANDARD),
    "udp": GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="unrounded", decoder="udp", kernel=5),
    "dark": GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="dark", decoder="dark", kernel=5),
    "argmax": GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="argmax"),
}


def network(codec):
    """A two-stage network whose maps are about as large as trained ones, with distinct peaks."""
    net = get_model("mshrnet_w8x2_small", 17, "offset" if codec.maps_per_joint == 3 else "heatmap")
    initialise(net, seed=2)
    arrays = get_arrays(net)
    for name in ("final_layer.weight", "cascade.0.final_layer.weight"):
        arrays[name] = arrays[name] * 0.1
    set_arrays(net, arrays, "test")
    return net


def person_crops(codec) -> np.ndarray:
    parts = []
    for index in range(4):
        scene = render_scene(3, index)
        centers, sizes = boxes_to_crops(scene.boxes, codec.input_wh)
        parts.append(cut_crops(scene.image, centers, sizes, codec.input_wh, codec.convention))
    return np.concatenate(parts)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("flip", [False, True])
def test_both_graphs_equal_the_network(tmp_path, codec, flip):
    net, shift = network(codec), codec is CODECS["quarter"] and flip
    checks = export_symbol(
        net, codec, COCO_17, tmp_path / "out", person_crops(codec), model="x", enlarge=1.25, flip=flip, shift=shift
    )
    assert [check.batch for check in checks] == [1, 8]
    assert all(check.map_error <= 1e-5 and check.pixel_error <= 0.01 for check in checks)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "deploy.json", "heatmaps-0000.params", "heatmaps-symbol.json", "keypoints-0000.params", "keypoints-symbol.json",
    ]  # fmt: skip


def test_predictor_gives_the_same_people_from_export_and_network(tmp_path):
    codec = CODECS["offset"]
    net = network(codec)
    crops = person_crops(codec)
    export_symbol(net, codec, COCO_17, tmp_path / "out", crops, model="x", enlarge=1.25)
    picture = sorted(images_of(people_set()).iterdir())[1]
    boxes = [[20, 10, 90, 150], [100, 30, 80, 120]]
    wanted = Predictor(TopDown(net, codec, COCO_17, flip=True, batch_size=2))(picture, boxes)
    found = Predictor(tmp_path / "out")(picture, boxes)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.05)
    np.testing.assert_allclose(found.boxes, wanted.boxes)


def test_the_graphs_run_without_this_package(tmp_path):
    codec = CODECS["offset"]
    export_symbol(network(codec), codec, COCO_17, tmp_path / "out", person_crops(codec), model="x", enlarge=1.25)
    code = (
        "import sys, numpy as np\n"
        "for name, kind in (('bool', bool), ('int', int), ('float', float), ('object', object)):\n"
        "    name in np.__dict__ or setattr(np, name, kind)\n"
        "import mxnet as mx\n"
        "folder = sys.argv[1]\n"
        "graph = mx.gluon.SymbolBlock.imports(folder + '/keypoints-symbol.json', ['data'], folder"
        " + '/keypoints-0000.params')\n"
        "found = graph(mx.nd.zeros((3, 96, 64, 3), dtype='uint8'))\n"
        "assert not any(name.startswith('msposenet') for name in sys.modules)\n"
        "print(found.shape, bool(np.isfinite(found.asnumpy()).all()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.stdout.strip() == "(3, 17, 3) True", done.stderr


def test_a_wrong_score_is_refused(tmp_path, monkeypatch):
    codec = CODECS["quarter"]
    decode = GaussianCodec.decode_in_graph

    monkeypatch.setattr(
        GaussianCodec,
        "decode_in_graph",
        lambda self, F, maps, n: F.broadcast_mul(
            decode(self, F, maps, n), F.concat(*[F.full((1, 1, 1), value) for value in (1, 1, -1)], dim=2)
        ),
    )
    with pytest.raises(ExportError, match="scores differ"):
        export_symbol(network(codec), codec, COCO_17, tmp_path / "out", person_crops(codec), model="x", enlarge=1.25)


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    from msposenet.export import symbol

    codec = CODECS["offset"]
    whole = symbol.params_bytes

    def altered(arrays):
        name = next(name for name in arrays if name.endswith("weight"))
        return whole({**arrays, name: arrays[name] * 1.01})

    monkeypatch.setattr(symbol, "params_bytes", altered)
    with pytest.raises(ExportError, match="does not give the network's results"):
        export_symbol(network(codec), codec, COCO_17, tmp_path / "out", person_crops(codec), model="x", enlarge=1.25)
    assert not (tmp_path / "out" / "deploy.json").exists()


def test_what_cannot_be_exported(tmp_path):
    codec = OffsetCodec(INPUT, HEATMAP, UNBIASED, decoder="vote")
    with pytest.raises(ConfigError, match="no graph form"):
        export_symbol(network(codec), codec, COCO_17, tmp_path / "a", person_crops(codec), model="x", enlarge=1.25)
    empty = np.zeros((0, 96, 64, 3), np.uint8)
    with pytest.raises(ExportError, match="no crops"):
        export_symbol(network(codec), codec, COCO_17, tmp_path / "b", empty, model="x", enlarge=1.25)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("precious")
    codec = CODECS["offset"]
    with pytest.raises(ConfigError, match="not an earlier export"):
        export_symbol(network(codec), codec, COCO_17, tmp_path / "c", person_crops(codec), model="x", enlarge=1.25)
    assert (tmp_path / "c" / "thesis.txt").read_text() == "precious"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    codec = CODECS["offset"]
    export_symbol(network(codec), codec, COCO_17, folder, person_crops(codec), model="x", enlarge=1.25)
    return folder


def _cut_params(folder):
    path = folder / "keypoints-0000.params"
    path.write_bytes(path.read_bytes()[:1000])


def _other_format(folder):
    path = folder / "deploy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def _outside(folder):
    path = folder / "deploy.json"
    content = json.loads(path.read_text())
    content["keypoints"]["symbol"] = "../../etc/passwd"
    path.write_text(json.dumps(content))


DAMAGE = {
    "cut params": (_cut_params, "keypoints-0000.params"),
    "no symbol": (lambda folder: (folder / "keypoints-symbol.json").unlink(), "missing; export the model again"),
    "symbol is text": (lambda folder: (folder / "keypoints-symbol.json").write_text("hello"), "not a graph"),
    "no JSON": (lambda folder: (folder / "deploy.json").write_text("{"), "not a deployment"),
    "newer format": (_other_format, "format 99"),
    "a path": (_outside, "not a file name beside it"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_exports_are_named(exported, tmp_path, damage, message):
    folder = tmp_path / "out"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        Predictor(folder)


def test_graphs_take_any_batch(exported):
    graph = mx.gluon.SymbolBlock.imports(
        str(exported / "heatmaps-symbol.json"), ["data"], str(exported / "heatmaps-0000.params")
    )
    for size in (1, 3, 8):
        assert graph(mx.nd.zeros((size, 96, 64, 3), dtype="uint8")).shape == (size, 51, 24, 16)
