"""Weights of other programs: every layout into the right network, every array accounted for, the same outputs."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rule_weights import fill_by_rule, rule_input, rule_tensor
from runner import cli_runner
from shared_data import load_golden
from torch_writer import write_pth

from msposenet.cli.main import app
from msposenet.errors import CheckpointError, ConfigError, PoseError
from msposenet.models.initialise import initialise
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.weights import get_arrays
from msposenet.weights.files import load_weights
from msposenet.weights.importing import check_forward, import_weights
from msposenet.weights.naming import from_gluoncv, from_mmpose, official_name, to_official
from msposenet.weights.params_file import read_params, write_params

JOINTS = 5
PICTURE = rule_input(3, (2, 3, 64, 64))


def official(name: str, joints: int = JOINTS, head=None, **options) -> dict[str, np.ndarray]:
    """A network's arrays by the golden rule under official names, with the counters that PyTorch saves."""
    net = get_model(name, joints, head, **options)
    shapes = {official_name(key): tuple(p.shape) for key, p in net._collect_params_with_prefix().items()}
    arrays = {key: rule_tensor(key, shape) for key, shape in shapes.items()}
    counters = {
        key.replace("running_mean", "num_batches_tracked"): np.array(9) for key in arrays if "running_mean" in key
    }
    return {**arrays, **counters}


def filled(arrays, name: str, joints: int = JOINTS, head=None, **options):
    """The network with these arrays, without going through the code under test."""
    net = get_model(name, joints, head, **options)
    for key, parameter in net._collect_params_with_prefix().items():
        parameter.initialize(init=mx.init.Constant(mx.nd.array(arrays[official_name(key)])))
    return net


def trunk_of(arrays):
    return {
        name: array for name, array in arrays.items() if not name.startswith(("final_layer", "incre", "down", "class"))
    }


def outputs(net) -> list[np.ndarray]:
    return [output.asnumpy() for output in net(mx.nd.array(PICTURE))]


@pytest.fixture(scope="module")
def pose() -> dict[str, np.ndarray]:
    return official("hrnet_w8_small")


@pytest.fixture(scope="module")
def classes() -> dict[str, np.ndarray]:
    return official("hrnet_w8_small_cls", num_classes=7)


@pytest.fixture(scope="module")
def pose_outputs(pose) -> list[np.ndarray]:
    return outputs(filled(pose, "hrnet_w8_small"))


def equal(found, wanted) -> bool:
    return len(found) == len(wanted) and all(np.array_equal(a, b) for a, b in zip(found, wanted))


def mmpose(arrays, head: str):
    renamed = {(head if name.startswith("final_layer") else "backbone.") + name: a for name, a in arrays.items()}
    return {**renamed, "data_preprocessor.mean": np.zeros((3, 1, 1), np.float32)}


LAYOUTS = {
    "official": lambda arrays: arrays,
    "DataParallel": lambda arrays: {f"module.{name}": array for name, array in arrays.items()},
    "half precision": lambda arrays: {f"module.1.{name}": array for name, array in arrays.items()},
    "mmpose 0.x": lambda arrays: mmpose(arrays, "keypoint_head."),
    "mmpose 1.x": lambda arrays: mmpose(arrays, "head."),
    "float64": lambda arrays: {name: array.astype(np.float64) for name, array in arrays.items() if array.ndim},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_pth_gives_the_same_network(tmp_path, pose, pose_outputs, layout):
    wrapper = "state_dict" if layout in ("DataParallel", "mmpose 1.x") else ""
    imported = import_weights(write_pth(tmp_path / "hrnet.pth", LAYOUTS[layout](pose), wrapper))
    found = imported.recognised
    assert (imported.model, imported.net.num_joints, imported.head) == ("hrnet_w8_small", JOINTS, "heatmap")
    assert found.layout == ("mmpose" if "mmpose" in layout else "official")
    assert not imported.filled.reinitialised and not imported.dropped
    assert equal(outputs(imported.net), pose_outputs)


def test_own_params_are_imported_as_they_are_and_come_back_bit_by_bit(tmp_path, pose, pose_outputs):
    first = import_weights(write_pth(tmp_path / "hrnet.pth", pose))
    write_params(tmp_path / "hrnet.params", get_arrays(first.net))
    again = import_weights(tmp_path / "hrnet.params")
    assert again.recognised.layout == "msposenet" and equal(outputs(again.net), pose_outputs)
    net = get_model("hrnet_w8_small", JOINTS)
    initialise(net)
    load_weights(net, tmp_path / "hrnet.params")
    assert equal(outputs(net), pose_outputs)


def test_the_reference_heatmaps_come_out_of_an_imported_file(tmp_path):
    g = load_golden("networks/hrnet_pose_w32_256x192.npz")
    net = get_model("hrnet_w32")
    shapes = {official_name(key): tuple(p.shape) for key, p in net._collect_params_with_prefix().items()}
    path = write_pth(tmp_path / "pose.pth", {key: rule_tensor(key, shape) for key, shape in shapes.items()})
    imported = import_weights(path)
    assert imported.model == "hrnet_w32" and len(imported.filled.filled) == 1462
    found = imported.net(mx.nd.array(rule_input(int(g["seed"]), tuple(g["shape"]))))[-1].asnumpy()
    assert np.abs(found - g["heatmaps"]).max() <= 1e-4 * np.abs(g["heatmaps"]).max()


@pytest.mark.parametrize(
    ("name", "joints", "head", "options"),
    [
        ("higherhrnet_w8_small", 3, None, {}),
        ("hrnet_w8_small_cls", 17, None, {"num_classes": 7}),
        ("mspn_r50x1", 3, None, {"planes": 4, "up_width": 8}),
        ("mshrnet_w8x2_small", 17, "offset", {"entry": "hires", "repeat_stage2": True}),
    ],
)
def test_the_other_families_come_whole(tmp_path, name, joints, head, options):
    arrays = official(name, joints, head, **options)
    imported = import_weights(write_pth(tmp_path / "net.pth", arrays))
    assert imported.model == name and not imported.filled.reinitialised and not imported.dropped
    assert equal(outputs(imported.net), outputs(filled(arrays, name, joints, head, **options)))


def test_higherhrnet_under_mmposes_names(tmp_path):
    arrays = official("higherhrnet_w8_small", 3)
    heads = ("final_layers", "deconv_layers")
    renamed = {("keypoint_head." if name.startswith(heads) else "backbone.") + name: a for name, a in arrays.items()}
    imported = import_weights(write_pth(tmp_path / "net.pth", renamed))
    assert imported.model == "higherhrnet_w8_small" and imported.net.num_joints == 3 and not imported.dropped


# ImageNet


def test_a_classification_file_fills_a_pose_networks_trunk(tmp_path, classes):
    path = write_pth(tmp_path / "imagenet.pth", classes)
    imported = import_weights(path, "hrnet_w8_small", 14)
    arrays = {official_name(name): array for name, array in get_arrays(imported.net).items()}
    assert imported.net.num_joints == 14
    assert imported.filled.reinitialised == ("final_layer.weight", "final_layer.bias")
    assert arrays["final_layer.weight"].shape == (14, 8, 1, 1) and 0 < arrays["final_layer.weight"].std() < 0.002
    for name, array in arrays.items():
        assert name.startswith("final_layer") or np.array_equal(array, classes[name]), name
    report = imported.lines()
    assert "re-initialised: final_layer.weight, final_layer.bias" in report
    heads = [name for name in classes if name.startswith(("incre", "down", "class", "final"))]
    heads = [name for name in heads if "num_batches" not in name]
    assert (
        f"dropped {len(heads)} arrays of the ImageNet classification head "
        "(classifier.*, downsamp_modules.*, final_layer.*, incre_modules.*)" in report
    )
    assert any(
        line.startswith("dropped ") and "other resolutions of the last exchange (stage4.*)" in line for line in report
    )
    dropped = sum(len(dropped.names) for dropped in imported.dropped)
    assert dropped + len(imported.filled.filled) == sum("num_batches" not in name for name in classes)


def test_the_pose_programs_own_imagenet_file_is_a_pose_networks_trunk(tmp_path, classes):
    arrays = trunk_of(classes)
    arrays.update({f"head.0.{i}.0.conv1.weight": np.ones((8, 8, 1, 1), np.float32) for i in range(4)})
    arrays.update({"fc.weight": np.ones((9, 2), np.float32), "fc.bias": np.ones(9, np.float32)})
    imported = import_weights(write_pth(tmp_path / "imagenet.pth", arrays))
    assert imported.model == "hrnet_w8_small" and imported.net.num_joints == 17
    assert {dropped.title: len(dropped.names) for dropped in imported.dropped}["ImageNet classification head"] == 6
    assert any("own ImageNet files: the backbone is taken" in line for line in imported.lines())
    assert any("that of 17 joints is new and wants training" in line for line in imported.lines())
    found = get_arrays(imported.net)["stage4.0.branches.3.3.conv2.weight"]
    assert np.array_equal(found, classes["stage4.0.branches.3.3.conv2.weight"])


def test_every_stage_of_a_cascade_starts_from_the_classification_network(tmp_path, classes):
    imported = import_weights(write_pth(tmp_path / "imagenet.pth", classes), "mshrnet_w8x2_small", 3)
    arrays = get_arrays(imported.net)
    for name in ("transition1.0.0.weight", "stage3.0.branches.2.0.conv1.weight", "stage4.0.fuse_layers.0.3.0.weight"):
        assert np.array_equal(arrays[f"cascade.0.{name}"], classes[name])
    assert set(imported.filled.reinitialised) == {
        f"{stage}final_layer.{field}" for stage in ("", "cascade.0.") for field in ("weight", "bias")
    }


def test_higherhrnet_starts_from_the_classification_network(tmp_path, classes):
    imported = import_weights(write_pth(tmp_path / "imagenet.pth", classes), "higherhrnet_w8_small", 3)
    assert {name.split(".")[0] for name in imported.filled.reinitialised} == {"final_layers", "deconv_layers"}


# gluoncv


def gluoncv_hrnet():
    """gluoncv's hrnet.py, without its package, which needs a PyTorch older than most or none."""
    spec = importlib.util.find_spec("gluoncv")
    if spec is None:
        pytest.skip("gluoncv is not installed")
    root = Path(spec.submodule_search_locations[0])
    names = {"gluoncv": root, "gluoncv.model_zoo": root / "model_zoo"}
    before = {name: sys.modules.get(name) for name in names}
    for name, folder in names.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    try:
        return importlib.import_module("gluoncv.model_zoo.hrnet")
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def gluoncv_file(tmp_path_factory):
    """A gluoncv classification network of width 8, saved by itself, and its logits."""
    modules = gluoncv_hrnet()
    stages = [(1, "BASIC", [4] * n, [8 * 2**i for i in range(n)], "SUM") for n in (2, 3, 4)]
    net = modules.HighResolutionClsNet([(1, "BOTTLENECK", [4], [64], "SUM"), *stages], num_classes=7)
    net.initialize(mx.init.MSRAPrelu())
    net(mx.nd.array(PICTURE))
    rng = np.random.default_rng(0)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith(("gamma", "beta", "running_mean", "running_var", "bias")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1, parameter.shape)))
    folder = tmp_path_factory.mktemp("gluoncv")
    net.save_parameters(str(folder / "hrnet_w8_cls.params"))
    net.collect_params().save(str(folder / "counted.params"))
    return folder, net(mx.nd.array(PICTURE)).asnumpy()


def test_gluoncvs_logits_come_out_of_its_imported_file(gluoncv_file):
    folder, logits = gluoncv_file
    imported = import_weights(folder / "hrnet_w8_cls.params")
    assert imported.model == "hrnet_w8_small_cls" and imported.recognised.layout == "gluoncv"
    assert not imported.dropped and not imported.filled.reinitialised
    assert np.ptp(logits) > 0 and np.abs(outputs(imported.net)[0] - logits).max() <= 1e-5 * np.abs(logits).max()


def test_gluoncvs_file_starts_a_pose_network_and_its_counted_names_are_refused(gluoncv_file):
    folder, _ = gluoncv_file
    net = get_model("mshrnet_w8x2_small", 3)
    initialise(net)
    done = load_weights(net, folder / "hrnet_w8_cls.params", drop_head=True)
    assert {name.rsplit(".", 1)[0] for name in done.reinitialised} == {"final_layer", "cascade.0.final_layer"}
    with pytest.raises(CheckpointError, match=r"names are counters \('conv\d+_weight'\).*save_parameters"):
        import_weights(folder / "counted.params")


@pytest.mark.parametrize(
    ("rename", "theirs", "ours"),
    [
        (from_gluoncv, "layer1.0.body.0.weight", "layer1.0.conv1.weight"),
        (from_gluoncv, "layer1.0.body.7.gamma", "layer1.0.bn3.weight"),
        (from_gluoncv, "layer1.0.downsample.1.beta", "layer1.0.downsample.1.bias"),
        (from_gluoncv, "stage3.1.branches.2.3.body.4.running_var", "stage3.1.branches.2.3.bn2.running_var"),
        (from_gluoncv, "stage3.1.fuse_layers.0.2.1.gamma", "stage3.1.fuse_layers.0.2.1.weight"),
        (from_gluoncv, "stage3.1.fuse_layers.2.0.4.beta", "stage3.1.fuse_layers.2.0.1.1.bias"),
        (from_gluoncv, "stage4.0.fuse_layers.3.0.6.weight", "stage4.0.fuse_layers.3.0.2.0.weight"),
        (from_gluoncv, "incre_blocks.3.0.body.6.weight", "incre_modules.3.0.conv3.weight"),
        (from_gluoncv, "downsamp_blocks.2.1.gamma", "downsamp_modules.2.1.weight"),
        (from_mmpose, "backbone.stage2.0.fuse_layers.1.0.0.0.weight", "stage2.0.fuse_layers.1.0.0.0.weight"),
        (from_mmpose, "keypoint_head.final_layer.bias", "final_layer.bias"),
        (from_mmpose, "head.final_layer.bias", "final_layer.bias"),
    ],
)
def test_names(rename, theirs, ours):
    assert rename(theirs) == ours


# What is refused


def changed(**values):
    return lambda arrays: {**arrays, **{name.replace("__", "."): value for name, value in values.items()}}


def dropping(*names):
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


NAN = np.full((64,), np.nan, np.float32)
REFUSED = [
    (changed(bn1__bias=NAN), r"net.pth: 'bn1.bias' holds 64 NaN or infinite values of 64"),
    (changed(conv2__weight=np.full((64, 64, 3, 3), 1e300)), "'conv2.weight' holds 36,864 NaN or infinite values"),
    (changed(bn1__running_var=np.full(64, -0.5, np.float32)), "'bn1.running_var' holds a variance of -0.5"),
    (changed(stage5__weight=np.ones(3, np.float32)), r"1 arrays do not fit the network \(stage5.weight is not in"),
    (changed(bn2__weight=np.ones(63, np.float32)), r"bn2.weight has shape \(63,\), the network wants \(64,\)"),
    (dropping("bn2.weight", "bn2.bias"), "bn2.weight is missing; bn2.bias is missing"),
    (dropping("final_layer.bias"), "final_layer.bias is missing"),
    (lambda arrays: {f"backbone.{name}": a for name, a in arrays.items()} | {"head.bn1.bias": arrays["bn1.bias"]},
     r"'head.bn1.bias' and another name both mean 'bn1.bias'"),
    (lambda arrays: {"bn1.num_batches_tracked": np.array(3)}, "holds no weights of a network"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_damaged_and_unknown_arrays_are_refused(tmp_path, pose, change, message):
    with pytest.raises(CheckpointError, match=message):
        import_weights(write_pth(tmp_path / "net.pth", change(dict(pose))))


def test_an_array_that_is_no_number_is_refused():
    with pytest.raises(CheckpointError, match=r"'conv1.weight' holds bool, not numbers"):
        to_official({"conv1.weight": np.ones((64, 3, 3, 3), bool)}, "file")


@pytest.mark.parametrize(
    ("file", "model", "joints", "message"),
    [
        ("pose", "hrnet_w16_small", None, r"holds hrnet_w8_small, 5 joints.*the model asked for is hrnet_w16_small"),
        ("pose", "hrnet_w8", None, "the model asked for is hrnet_w8"),
        ("pose", "mshrnet_w8x2_small", None, "the model asked for is mshrnet_w8x2_small"),
        ("pose", "higherhrnet_w8_small", None, "the model asked for is higherhrnet_w8_small"),
        ("pose", "hrnet_w8_small_cls", None, "the model asked for is hrnet_w8_small_cls"),
        ("pose", "hrnet_32", None, "unknown model 'hrnet_32'; did you mean"),
        ("pose", None, 6, "its head gives 5 maps, which is neither 6 heatmaps nor 3 x 6"),
        ("classes", "hrnet_w16_small", None, "holds hrnet_w8_small_cls, .*the model asked for is hrnet_w16_small"),
        ("classes", "mspn_r50x1", None, "the model asked for is mspn_r50x1"),
    ],
)
def test_a_model_or_joint_count_that_contradicts_the_file_is_refused_with_both(
    tmp_path, pose, classes, file, model, joints, message
):
    path = write_pth(tmp_path / "net.pth", {"pose": pose, "classes": classes}[file])
    with pytest.raises(ConfigError, match=message):
        import_weights(path, model, joints)


def test_files_that_are_something_else_are_refused_by_name(tmp_path):
    for name, content in (
        ("empty.pth", b""),
        ("page.pth", b"<!DOCTYPE html>"),
        ("empty.params", b""),
        ("a.txt", b"hi"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            import_weights(tmp_path / name)
    with pytest.raises(PoseError, match=r"none.pth"):
        import_weights(tmp_path / "none.pth")


# The check on pictures


def test_the_forward_check_sees_outputs_that_are_constant_or_not_finite(pose):
    net = filled(pose, "hrnet_w8_small")
    crops = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    checked = check_forward(net, crops, "file")
    maps = net(mx.nd.array(((crops / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2)))[-1]
    peaks = maps.asnumpy().max(axis=(2, 3))
    assert (checked.low, checked.high) == pytest.approx((peaks.min(), peaks.max()), rel=1e-4)
    assert checked.line().startswith("forward check: heatmaps of 2 drawn people finite, peaks ")
    net.final_layer.weight.set_data(mx.nd.zeros((JOINTS, 8, 1, 1)))
    net.final_layer.bias.set_data(mx.nd.zeros(JOINTS))
    with pytest.raises(CheckpointError, match="file: output 1 of 1 is the same everywhere on drawn people"):
        check_forward(net, crops, "file")
    net.final_layer.weight.set_data(mx.nd.full((JOINTS, 8, 1, 1), 3e38))
    with pytest.raises(CheckpointError, match="output 1 of 1 is not finite"):
        check_forward(net, crops, "file")


# Straight into prediction and training


def test_a_pth_is_loaded_where_weights_are_named(tmp_path, pose, classes, pose_outputs):
    net = get_model("hrnet_w8_small", JOINTS)
    initialise(net)
    assert not load_weights(net, write_pth(tmp_path / "pose.pth", pose)).reinitialised
    assert equal(outputs(net), pose_outputs)
    with pytest.raises(CheckpointError, match="finds no keypoints yet: train a network from it with --init-from"):
        load_weights(net, write_pth(tmp_path / "imagenet.pth", classes))
    other = get_model("hrnet_w8_small", 9)
    initialise(other)
    with pytest.raises(CheckpointError, match=r"2 arrays do not fit .*another joint count"):
        load_weights(other, tmp_path / "pose.pth")
    wide = get_model("hrnet_w16_small", JOINTS)
    initialise(wide)
    with pytest.raises(CheckpointError, match=r"recognised as hrnet_w8_small, 5 joints.*another model"):
        load_weights(wide, tmp_path / "pose.pth", drop_head=True)


@pytest.mark.parametrize("source", ["pose.pth", "imagenet.pth", "imagenet.params"])
def test_training_starts_from_a_file_with_another_head(tmp_path, pose, classes, source):
    if source.endswith(".pth"):
        write_pth(tmp_path / source, pose if source == "pose.pth" else classes)
    else:
        write_params(tmp_path / source, get_arrays(filled(classes, "hrnet_w8_small_cls", num_classes=7)))
    net = get_model("hrnet_w8_small", 9)
    initialise(net)
    before = get_arrays(net)
    done = load_weights(net, tmp_path / source, drop_head=True)
    after = get_arrays(net)
    assert done.reinitialised == ("final_layer.weight", "final_layer.bias")
    assert (
        f"re-initialised: final_layer.weight, final_layer.bias; loaded {len(after) - 2} of {len(after)}" in done.line()
    )
    assert np.array_equal(before["final_layer.weight"], after["final_layer.weight"])
    wanted = (pose if source == "pose.pth" else classes)["stage4.0.branches.0.0.conv1.weight"]
    assert np.array_equal(after["stage4.0.branches.0.0.conv1.weight"], wanted)


def test_the_wider_last_exchange_keeps_its_own_values(tmp_path, classes):
    net = get_model("mshrnet_w8x1_small", 3, wide_fuse=True)
    initialise(net)
    done = load_weights(net, write_pth(tmp_path / "imagenet.pth", classes), drop_head=True)
    assert {name for name in done.reinitialised if "final_layer" not in name} == {
        name for name in get_arrays(net) if name.startswith("stage4.0.fuse_layers.0.") and "num" not in name
    }


# The command


def run(*arguments):
    return cli_runner().invoke(app, ["import", *map(str, arguments)])


def test_the_command_reports_and_writes(tmp_path, monkeypatch, pose, pose_outputs):
    monkeypatch.chdir(tmp_path)
    write_pth(tmp_path / "pose_hrnet.pth", pose)
    done = run("pose_hrnet.pth", "--model", "hrnet_w8_small")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "recognised: hrnet_w8_small, 5 joints, heatmap head, official names"
    total = len(read_params(tmp_path / "pose_hrnet.params"))
    assert lines[1] == f"filled {total} of {total} arrays of hrnet_w8_small"
    assert any(line.startswith("forward check: heatmaps of 2 drawn people finite, peaks ") for line in lines)
    assert f"wrote pose_hrnet.params: {total} arrays, read back equal" in lines
    assert any("eval CONFIG --weights pose_hrnet.params" in line for line in lines)
    net = get_model("hrnet_w8_small", JOINTS)
    initialise(net)
    load_weights(net, tmp_path / "pose_hrnet.params")
    assert equal(outputs(net), pose_outputs)
    again = run("pose_hrnet.pth")
    assert isinstance(again.exception, ConfigError) and "--force" in str(again.exception)
    assert isinstance(run("pose_hrnet.params", "--force").exception, ConfigError)  # would replace what it reads
    unchecked = run("pose_hrnet.pth", "--force", "--no-check")
    assert unchecked.exit_code == 0 and "forward check" not in unchecked.stdout


def test_the_command_prints_json(tmp_path, classes):
    path = write_pth(tmp_path / "imagenet.pth", classes)
    out = tmp_path / "start.params"
    done = run(path, "--model", "hrnet_w8_small", "--joints", "14", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["recognised"] == "hrnet_w8_small_cls" and figures["model"] == "hrnet_w8_small"
    assert figures["num_joints"] == 14 and figures["reinitialised"] == ["final_layer.weight", "final_layer.bias"]
    assert figures["dropped"]["ImageNet classification head"] > 50
    assert figures["check"]["people"] == 2 and figures["check"]["low"] <= figures["check"]["high"]
    assert figures["filled"] + 2 == len(read_params(out))


def test_the_command_leaves_nothing_behind_when_it_refuses(tmp_path, pose):
    path = write_pth(tmp_path / "net.pth", dropping("bn2.bias")(dict(pose)))
    done = run(path, "--out", tmp_path / "out.params")
    assert isinstance(done.exception, CheckpointError) and not (tmp_path / "out.params").exists()


def test_predict_reads_a_pth(tmp_path):
    import cv2

    from msposenet.data.synthetic import render_scene

    arrays = {
        official_name(name): array for name, array in get_arrays(fill_by_rule(get_model("hrnet_w8_small"))).items()
    }
    path = write_pth(tmp_path / "pose.pth", arrays)
    cv2.imwrite(str(tmp_path / "a.png"), render_scene(1, 0).image)
    arguments = [
        "predict",
        tmp_path / "a.png",
        "--model",
        "hrnet_w8_small",
        "--weights",
        path,
        "--out",
        tmp_path / "out",
    ]
    done = cli_runner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "a.json").is_file()
