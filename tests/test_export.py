"""Exported graphs: without the model code, equal to the network, refused when they are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from documents import inside, run_command
from export_parts import CODECS, HEATMAP, INPUT, UNBIASED, TwoConvolutions, person_crops, small_network, two_stages
from people_set import images_of, people_set

from msposenet import Predictor
from msposenet.codecs import GaussianCodec, OffsetCodec
from msposenet.errors import CheckpointError, ConfigError, ExportError
from msposenet.export import folder as export_folder
from msposenet.export import staging
from msposenet.export.folder import export_model
from msposenet.export.network import export_network
from msposenet.export.parity import compare
from msposenet.inference.onnx_batches import OnnxBatches
from msposenet.inference.topdown import TopDown
from msposenet.models.graphs import KeypointGraph
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.symbols.traced import Traced, trace
from msposenet.weights import get_arrays, set_arrays
from msposenet.weights.params_file import write_params

OFFSET = CODECS["offset"]
FILES = [
    "deploy.json", "heatmaps-0000.params", "heatmaps-fused-symbol.json", "heatmaps-symbol.json", "heatmaps.onnx",
    "keypoints-0000.params", "keypoints-fused-symbol.json", "keypoints-symbol.json", "keypoints.onnx",
]  # fmt: skip
ALL = ("symbol", "onnx")


def export(folder, codec=OFFSET, net=None, crops=None, **options):
    net = net or small_network(codec)
    crops = person_crops(codec) if crops is None else crops
    return export_model(net, codec, COCO_17, folder, crops, model="x", enlarge=1.25, **options).parity


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("flip", [False, True])
def test_every_form_of_both_graphs_equals_the_network(tmp_path, codec, flip):
    shift = codec is CODECS["quarter"] and flip
    checks = export(tmp_path / "out", codec, flip=flip, shift=shift, forms=ALL)
    assert [(c.form, c.batch) for c in checks] == [(f, b) for f in ("symbol", "fused", "onnx") for b in (1, 8)]
    for check in checks:
        assert check.map_error <= 1e-5 and check.pixel_error <= (0.05 if check.form == "onnx" else 0.01)
        assert check.unclear <= 2  # of 17 or 136 joints
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A two-stage HRNet in every form."""
    folder = tmp_path_factory.mktemp("export") / "out"
    export(folder, net=two_stages(OFFSET), forms=ALL)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same of a small network."""
    folder = tmp_path_factory.mktemp("export") / "small"
    export(folder, forms=ALL)
    return folder


def only_onnx(exported, folder):
    """A copy of an export whose deploy.json and files are those of `--to onnx`."""
    folder.mkdir()
    content = json.loads((exported / "deploy.json").read_text())
    for graph in ("keypoints", "heatmaps"):
        content[graph] = {key: content[graph][key] for key in ("output", "onnx")}
        shutil.copy(exported / f"{graph}.onnx", folder)
    content["sha256"] = {name: sha for name, sha in content["sha256"].items() if name.endswith(".onnx")}
    (folder / "deploy.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("form", ["symbol", "onnx"])
def test_predictor_gives_the_same_people_from_export_and_network(exported, tmp_path, form):
    folder = exported if form == "symbol" else only_onnx(exported, tmp_path / "onnx")
    picture = sorted(images_of(people_set()).iterdir())[1]
    boxes = [[20, 10, 90, 150], [100, 30, 80, 120]]
    wanted = Predictor(TopDown(two_stages(OFFSET), OFFSET, COCO_17, flip=True, batch_size=2))(picture, boxes)
    found = Predictor(folder)(picture, boxes)
    assert len(found) == len(wanted) == 2
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.05)
    np.testing.assert_allclose(found.boxes, wanted.boxes)
    assert len(Predictor(folder)(picture, [])) == 0


def test_the_onnx_export_alone_is_what_was_copied(small, tmp_path):
    export(tmp_path / "out", forms=["onnx"])
    found = json.loads((tmp_path / "out" / "deploy.json").read_text())
    wanted = json.loads((only_onnx(small, tmp_path / "copy") / "deploy.json").read_text())
    assert {**found, "sha256": sorted(found["sha256"])} == {**wanted, "sha256": sorted(wanted["sha256"])}
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "copy").keys()


def test_deploy_json_says_what_a_program_needs(exported):
    content = json.loads((exported / "deploy.json").read_text())
    assert content["format"] == 2 and content["input"] == [96, 64]
    assert content["preprocessing"] == {
        "inside": True, "colours": "RGB", "layout": "NHWC", "dtype": "uint8", "scale": pytest.approx(1 / 255),
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert content["keypoints"] == {
        "output": "(N, K, 3) float32: x, y in crop px, score",
        "symbol": "keypoints-symbol.json",
        "params": "keypoints-0000.params",
        "fused": "keypoints-fused-symbol.json",
        "onnx": "keypoints.onnx",
    }
    assert sorted(content["sha256"]) == [name for name in FILES if name != "deploy.json"]


def test_batch_norm_is_folded_and_the_fused_symbol_is_fused(exported):
    assert b'"op": "BatchNorm"' not in (exported / "keypoints-symbol.json").read_bytes()
    assert b'"op": "_sg_mkldnn_conv"' not in (exported / "keypoints-symbol.json").read_bytes()
    assert (exported / "keypoints-fused-symbol.json").read_bytes().count(b'"op": "_sg_mkldnn_conv"') > 50


def test_the_symbols_run_without_this_package(exported, tmp_path):
    """In a process of their own, at any batch; the fused one, written and read again, gives the plain one's results."""
    code = (
        "import sys, numpy as np\n"
        "sys.modules['msposenet'] = None\n"
        "for name, kind in (('bool', bool), ('int', int), ('float', float), ('object', object)):\n"
        "    name in np.__dict__ or setattr(np, name, kind)\n"
        "import mxnet as mx\n"
        "def load(name):\n"
        "    params = sys.argv[1] + '/heatmaps-0000.params'\n"
        "    return mx.gluon.SymbolBlock.imports(sys.argv[1] + '/' + name, ['data'], params)\n"
        "crops = np.random.RandomState(0).randint(0, 256, (3, 96, 64, 3))\n"
        "plain, fused = load('heatmaps-symbol.json'), load('heatmaps-fused-symbol.json')\n"
        "for size in (3, 1):\n"
        "    x = mx.nd.array(crops[:size], dtype='uint8')\n"
        "    a, b = plain(x).asnumpy(), fused(x).asnumpy()\n"
        "    print(a.shape, bool(abs(a - b).max() <= 1e-5 * abs(a).max()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.stdout.splitlines() == ["(3, 51, 24, 16) True", "(1, 51, 24, 16) True"], done.stderr


# Refusals


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
        export(tmp_path / "out", codec)


def _altered(traced: Traced) -> Traced:
    name = next(name for name in traced.arrays if name.endswith("weight"))
    return replace(traced, arrays={**traced.arrays, name: traced.arrays[name] * np.float32(1.01)})


def _other_operator(fuse):
    """Fused graphs share the plain ones' values, so what can go wrong with them is their operators."""

    def fuse_wrongly(traced):
        return replace(traced, symbol=fuse(traced).symbol * 1.001)

    return fuse_wrongly


WRONG = {
    "symbol": ("_prefixed", lambda prefixed: lambda traced: prefixed(_altered(traced))),
    "fused": ("fuse", _other_operator),
    "onnx": ("to_onnx", lambda to_onnx: lambda traced, *rest: to_onnx(_altered(traced), *rest)),
}


@pytest.mark.parametrize(("form", "step"), WRONG.items(), ids=WRONG)
def test_a_graph_that_differs_is_refused_and_the_earlier_export_stays(tmp_path, monkeypatch, form, step):
    export(tmp_path / "out", net=small_network(OFFSET, seed=5))
    before = contents(tmp_path / "out")
    name, change = step
    monkeypatch.setattr(staging, name, change(getattr(staging, name)))
    with pytest.raises(ExportError, match=f"do not give the network's results: {form}, batch 1"):
        export(tmp_path / "out", forms=ALL)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ExportError):
        export(tmp_path / "new", forms=ALL)
    assert contents(tmp_path / "new") == {}


def test_an_interrupted_export_leaves_the_earlier_one(tmp_path, monkeypatch):
    export(tmp_path / "out", net=small_network(OFFSET, seed=5))
    before = contents(tmp_path / "out")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_folder, "check_parity", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / "out")
    assert contents(tmp_path / "out") == before
    # What a killed one left is cleared away, and what the new export does not have.
    (tmp_path / "out" / ".tmp-1-00000000").mkdir()
    export(tmp_path / "out", forms=["onnx"])
    assert sorted(contents(tmp_path / "out")) == ["deploy.json", "heatmaps.onnx", "keypoints.onnx"]


def test_no_export_is_seen_while_files_are_replaced(tmp_path, monkeypatch):
    export(tmp_path / "out")
    moved = []
    move = staging.os.replace

    def watched(source, target):
        if str(source).startswith(str(tmp_path)) and target.parent == tmp_path / "out":
            moved.append((target.name, (tmp_path / "out" / "deploy.json").exists()))
        move(source, target)

    monkeypatch.setattr(staging.os, "replace", watched)
    export(tmp_path / "out")
    assert len(moved) == 7 and moved[-1][0] == "deploy.json"
    assert not any(complete for _, complete in moved)


def test_what_cannot_be_exported(tmp_path):
    vote = OffsetCodec(INPUT, HEATMAP, UNBIASED, decoder="vote")
    with pytest.raises(ConfigError, match="no graph form"):
        export(tmp_path / "a", vote)
    with pytest.raises(ExportError, match="no crops"):
        export(tmp_path / "b", crops=np.zeros((0, 96, 64, 3), np.uint8))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("precious")
    (tmp_path / "c" / "deploy.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"not an earlier export \(it holds thesis.txt\)"):
        export(tmp_path / "c")
    assert (tmp_path / "c" / "thesis.txt").read_text() == "precious"
    with pytest.raises(ConfigError, match="unknown format 'tflite'; known: symbol, onnx"):
        export(tmp_path / "d", forms=["tflite"])
    with pytest.raises(ConfigError, match="no format"):
        export(tmp_path / "d", forms=[])
    assert not (tmp_path / "d").exists()


def test_a_joint_that_hangs_on_the_last_bits_is_no_difference():
    codec = CODECS["argmax"]
    wanted = np.zeros((1, 2, 24, 16), np.float32)
    wanted[0, :, 3, 4] = 1.0
    wanted[0, :, 20, 10] = 0.9, 1.0 - 1e-7
    maps = wanted.copy()
    maps[0, 1, 3, 4], maps[0, 1, 20, 10] = 1.0 - 1e-7, 1.0
    first, second = (16, 12, 1), (40, 80, 1)
    check = compare("symbol", codec, wanted, maps, np.array([[first, second]], np.float32))
    assert check.holds and check.unclear == 1 and check.pixel_error == 0
    assert "(1 that hang on the last bits" in check.line()
    for found, keypoints in (
        (maps, [second, second]),  # the other joint has one peak only
        (maps * 1.0001, [first, second]),
        (maps, [first, (1e4, 1e4, 1)]),
        (maps, [first, (np.nan, np.nan, 1)]),
    ):
        assert not compare("symbol", codec, wanted, found, np.array([keypoints], np.float32)).holds


# The bare network


@pytest.mark.parametrize("flat", [False, True])
def test_a_bare_network_gives_all_its_outputs(tmp_path, flat):
    class Network(TwoConvolutions):
        """Two outputs of different size, or one that is no tuple."""

        def hybrid_forward(self, F, x):
            (maps,) = super().hybrid_forward(F, x)
            pooled = F.Flatten(F.Pooling(maps, global_pool=True, pool_type="avg"))
            return pooled if flat else (pooled, maps)

    net = Network(17)
    net.initialize()
    set_arrays(net, get_arrays(small_network(CODECS["quarter"])), "test")
    crops = person_crops(CODECS["quarter"])
    folder = tmp_path / "out"
    export(folder)  # an export of another kind is replaced, too
    checks = export_network(net, folder, crops, model="x", forms=ALL)
    assert [(c.form, c.batch) for c in checks] == [(f, b) for f in ("symbol", "fused", "onnx") for b in (1, 8)]
    assert all(check.map_error <= 1e-5 and check.pixel_error is None for check in checks)
    assert "outputs differ by" in checks[0].line()
    assert sorted(contents(folder)) == [
        "network-0000.params", "network-fused-symbol.json", "network-symbol.json", "network.json", "network.onnx",
    ]  # fmt: skip
    content = json.loads((folder / "network.json").read_text())
    shapes = [["N", 17]] if flat else [["N", 17], ["N", 17, 24, 16]]
    assert content["outputs"] == [{"name": f"output{i}", "shape": shape} for i, shape in enumerate(shapes)]
    # As the description says to call it.
    x = (crops[:3].transpose(0, 3, 1, 2) / 255 - np.reshape(content["mean"], (3, 1, 1))) / np.reshape(
        content["std"], (3, 1, 1)
    )
    x = x.astype(np.float32)
    wanted = net(mx.nd.array(x))
    for found, array in zip(OnnxBatches(folder / "network.onnx", 8).run(x), [wanted] if flat else wanted):
        np.testing.assert_allclose(found, array.asnumpy(), atol=1e-5)


def test_a_bare_network_that_differs_is_refused(tmp_path, monkeypatch):
    for name, change in WRONG.values():
        with monkeypatch.context() as patch:
            patch.setattr(staging, name, change(getattr(staging, name)))
            with pytest.raises(ExportError, match="do not give the network's results"):
                export_network(small_network(OFFSET), tmp_path, person_crops(OFFSET), model="x", forms=ALL)
    assert contents(tmp_path) == {}


def test_the_command_exports_bare_networks_of_other_families(tmp_path):
    net = get_model("higherhrnet_w4_small")
    net.initialize()
    write_params(tmp_path / "w.params", get_arrays(net))
    with inside(tmp_path):
        run_command(
            "msposenet export higherhrnet_w4_small --network --weights w.params --to onnx --out net "
            "--set data.input=[64,64]",
            "test",
        )
    content = json.loads((tmp_path / "net" / "network.json").read_text())
    assert content["input"] == [64, 64] and content["model"] == "higherhrnet_w4_small"
    assert [output["shape"] for output in content["outputs"]] == [["N", 34, 16, 16], ["N", 17, 32, 32]]


# Damage


def _change(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def _in_deploy(**changes):
    def change(folder):
        path = folder / "deploy.json"
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content[key] = {**content[key], **value} if isinstance(value, dict) and value else value
        path.write_text(json.dumps(content))

    return change


def _text(name, text):
    def change(folder):
        (folder / name).write_text(text)
        _in_deploy(sha256={})(folder)

    return change


def _other_graph(folder):
    shutil.copy(folder / "keypoints-symbol.json", folder / "x-symbol.json")
    write_params(folder / "x-0000.params", {"arg:data2": np.zeros(3, np.float32)})
    _in_deploy(keypoints={"symbol": "x-symbol.json", "params": "x-0000.params"})(folder)


SYMBOL_DAMAGE = {
    "one bit of the params": (_change("keypoints-0000.params"), "keypoints-0000.params: is damaged"),
    "one bit of the symbol": (_change("keypoints-symbol.json"), "keypoints-symbol.json: is damaged"),
    "no symbol": (lambda folder: (folder / "keypoints-symbol.json").unlink(), "missing; export the model again"),
    "no params": (lambda folder: (folder / "keypoints-0000.params").unlink(), "keypoints-0000.params: no such file"),
    "symbol is text": (_text("keypoints-symbol.json", "hello"), "not a graph"),
    "params of another": (_other_graph, "parameters are missing"),
    "no JSON": (lambda folder: (folder / "deploy.json").write_text("{"), "not a deployment"),
    "a list": (lambda folder: (folder / "deploy.json").write_text("[]"), "a list where an object is wanted"),
    "a key less": (lambda folder: (folder / "deploy.json").write_text('{"format": 2}'), "not a deployment"),
    "newer format": (_in_deploy(format=3), "format 3, this version reads 1 and 2; export the model again"),
    "no format": (_in_deploy(format=None), "format None"),
    "a path": (_in_deploy(keypoints={"symbol": "../../etc/passwd"}), "not a file name beside it"),
    "no graph": (_in_deploy(keypoints={"symbol": None, "onnx": None}), "names neither symbol and params nor onnx"),
}
ONNX_DAMAGE = {
    "one bit": (_change("keypoints.onnx"), "keypoints.onnx: is damaged"),
    "no file": (lambda folder: (folder / "keypoints.onnx").unlink(), "missing; export the model again"),
    "text": (_text("keypoints.onnx", "hello"), "not an ONNX model"),
    "empty": (_text("keypoints.onnx", ""), "not an ONNX model"),
}


@pytest.mark.parametrize(("damage", "message"), SYMBOL_DAMAGE.values(), ids=SYMBOL_DAMAGE)
def test_damaged_symbol_exports_are_named(small, tmp_path, damage, message):
    shutil.copytree(small, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(CheckpointError, match=message):
        Predictor(tmp_path / "out")


@pytest.mark.parametrize(("damage", "message"), ONNX_DAMAGE.values(), ids=ONNX_DAMAGE)
def test_damaged_onnx_exports_are_named(small, tmp_path, damage, message):
    damage(only_onnx(small, tmp_path / "out"))
    with pytest.raises(CheckpointError, match=message):
        Predictor(tmp_path / "out")


def test_an_export_of_format_1_still_runs(small, tmp_path):
    """Its graphs have their batch norms, and its deploy.json neither preprocessing nor sha256."""
    content = json.loads((small / "deploy.json").read_text())
    for key in ("preprocessing", "sha256"):
        del content[key]
    entry = {"symbol": "keypoints-symbol.json", "params": "keypoints-0000.params", "output": "x"}
    content.update(format=1, keypoints=entry, heatmaps=entry)
    traced = trace(KeypointGraph(small_network(OFFSET), OFFSET, COCO_17.flip_index, True))
    (tmp_path / "keypoints-symbol.json").write_text(traced.symbol.tojson())
    states = traced.symbol.list_auxiliary_states()
    arrays = {f"{'aux' if name in states else 'arg'}:{name}": array for name, array in traced.arrays.items()}
    write_params(tmp_path / "keypoints-0000.params", arrays)
    (tmp_path / "deploy.json").write_text(json.dumps(content))
    picture = sorted(images_of(people_set()).iterdir())[1]
    boxes = [[20, 10, 90, 150]]
    found, wanted = (Predictor(folder)(picture, boxes).keypoints for folder in (tmp_path, small))
    assert states
    np.testing.assert_allclose(found, wanted, atol=0.05)
