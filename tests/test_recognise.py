"""Which network a file belongs to, from names and shapes alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from shared_data import golden

from msposenet.errors import CheckpointError, ConfigError
from msposenet.models.zoo import get_model
from msposenet.weights.naming import official_name
from msposenet.weights.recognise import recognise


def shaped(shapes) -> dict[str, np.ndarray]:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def shapes_of(net) -> dict[str, tuple[int, ...]]:
    return {official_name(name): tuple(p.shape) for name, p in net._collect_params_with_prefix().items()}


# File, network, joints.
PUBLISHED = [
    ("hrnet_pose_w32_k16", "hrnet_w32", 16),
    ("hrnet_pose_w32_k17", "hrnet_w32", 17),
    ("hrnet_pose_w48_k17", "hrnet_w48", 17),
    ("hrnet_cls_w32", "hrnet_w32_cls", None),
    ("hrnet_cls_w48", "hrnet_w48_cls", None),
    ("higherhrnet_w32_k14", "higherhrnet_w32", 14),
    ("higherhrnet_w32_k17", "higherhrnet_w32", 17),
    ("higherhrnet_w48_k17", "higherhrnet_w48", 17),
    ("mspn_1stage_k17", "mspn_r50x1", 17),
    ("mspn_2stage_k17", "mspn_r50x2", 17),
    ("mspn_3stage_k17", "mspn_r50x3", 17),
    ("mspn_4stage_k17", "mspn_r50x4", 17),
]


@pytest.mark.parametrize(("file", "model", "joints"), PUBLISHED)
def test_published_files_are_recognised_with_no_tensor_left_over_or_missing(file, model, joints):
    entries = json.loads(golden(f"state_dicts/{file}.json").read_text())["entries"]
    shapes = {name: tuple(shape) for name, shape in entries.items() if not name.endswith("num_batches_tracked")}
    found = recognise(shaped(shapes), file)
    assert (found.model, found.num_joints, dict(found.options)) == (model, joints, {})
    assert shapes_of(get_model(found.model, joints or 17, found.head, **found.options)) == shapes


@pytest.mark.parametrize(
    ("name", "joints", "head", "options"),
    [
        ("hrnet_w8_small", 16, "heatmap", {}),
        ("hrnet_w24", 14, "heatmap", {}),
        ("hrnet_w8", 17, "heatmap", {"modules": (1, 2, 2)}),
        ("mshrnet_w8x1_small", 17, "offset", {"wide_fuse": True}),
        ("mshrnet_w8x2_small", 17, "offset", {}),
        ("mshrnet_w8x4_small", 7, "offset", {}),
        ("mshrnet_w8x2_small", 17, "heatmap", {}),
        ("mshrnet_w8x3_small", 17, "offset", {"entry": "hires"}),
        ("mshrnet_w8x2_small", 17, "offset", {"entry": "hires", "wide_fuse": True}),
        ("mshrnet_w8x2_small", 17, "offset", {"entry": "cross64"}),
        ("mshrnet_w8x2_small", 17, "offset", {"entry": "image", "repeat_stage2": True}),
        ("mshrnet_w8x2_small", 17, "offset", {"repeat_stage2": True, "keep_all_scales": True}),
        ("higherhrnet_w8_small", 17, "associative", {}),
        ("higherhrnet_w8_small", 14, "associative", {"deconvolutions": 2, "residual_blocks": 1}),
        ("hrnet_w8_small_cls", None, None, {"num_classes": 7}),
        ("mspn_r50x2", 15, "heatmap", {"planes": 8, "up_width": 16}),
    ],
)
def test_construction_is_seen_in_the_tensors(name, joints, head, options):
    net = get_model(name, joints or 17, head, **options)
    found = recognise(shaped(shapes_of(net)), "file")
    if (name, joints) == ("mshrnet_w8x4_small", 7):  # 21 maps: a known skeleton's heatmaps, unless told
        assert (found.num_joints, found.head) == (21, "heatmap") and "21 maps" in found.notes[-1]
        found = recognise(shaped(shapes_of(net)), "file", num_joints=7)
    assert (found.model, found.num_joints, found.head, dict(found.options)) == (name, joints, head, options)
    assert shapes_of(get_model(found.model, found.num_joints or 17, found.head, **found.options)) == shapes_of(net)
    if name.startswith("mshrnet") and not name.startswith("mshrnet_w8x1"):
        assert any("leaves no trace" in note for note in found.notes)


def test_what_an_offset_head_leaves_open_is_said_and_decided_by_the_joint_count():
    arrays = shaped(shapes_of(get_model("hrnet_w8_small", 51)))
    found = recognise(arrays, "file")
    assert (found.model, found.num_joints, found.head) == ("mshrnet_w8x1_small", 17, "offset")
    assert "51 maps are 51 heatmaps or class and offsets of 17 joints: taken as offset" in found.notes
    assert (recognise(arrays, "file", num_joints=51).model, recognise(arrays, "file", num_joints=51).notes) == (
        "hrnet_w8_small",
        (),
    )
    with pytest.raises(ConfigError, match=r"file: its head gives 51 maps, .* neither 16 heatmaps nor 3 x 16"):
        recognise(arrays, "file", num_joints=16)


def test_a_trunk_without_a_head_is_recognised_as_one():
    shapes = shapes_of(get_model("hrnet_w8_small", 17))
    trunk = {name: shape for name, shape in shapes.items() if not name.startswith("final_layer")}
    found = recognise(shaped(trunk), "file")
    assert (found.family, found.model, found.num_joints) == ("backbone", "hrnet_w8_small", None)
    assert "network without any head" in found.notes[0]
    found = recognise(shaped({**trunk, "head.0.0.0.conv1.weight": (32, 8, 1, 1), "fc.bias": (1000,)}), "file")
    assert found.family == "backbone" and "own ImageNet files" in found.notes[0]


def without(part):
    return lambda shapes: {name: shape for name, shape in shapes.items() if part not in name}


def plus(**extra):
    return lambda shapes: {**shapes, **{name.replace("__", "."): shape for name, shape in extra.items()}}


HEAD = "final_layer."
SMALL = shapes_of(get_model("hrnet_w8_small", 17))
DAMAGED = [
    (lambda shapes: {"fc1.weight": (3, 4)}, r"file: its arrays \(fc1.weight, ...\) are of no known network; known: H"),
    (without("stage4."), "of no known network"),
    (without("conv2.weight"), r"conv2.weight is missing|layer1"),
    (without("stage3.0.branches.1."), r"of stage3.0.branches.N it has N = 0, 2: arrays are missing"),
    (without("layer1.3."), r"layer1 of 3 blocks with 64 channels"),
    (without("stage4.0.branches.2.3."), r"stage4.0.branches.2 of 3 blocks"),
    (without("stage4.0.branches.3."), r"stage4.0.branches.3.0.conv1.weight is missing"),
    (plus(conv1__weight=(32, 3, 3, 3)), r"conv1 \(32, 3, 3, 3\): HRNet's stem"),
    (plus(conv1__weight=(64, 27)), r"conv1.weight has shape \(64, 27\), it must have 4 dimensions"),
    (plus(stage4__0__branches__1__0__conv1__weight=(17, 17, 3, 3)), r"branches of \(8, 17, 32, 64\) channels"),
    (plus(final_layer__weight=(17, 9, 1, 1)), "final_layer reads 9 channels: the last exchange gives 8"),
    (plus(final_layer__weight=(0, 8, 1, 1)), "final_layer.weight has shape"),
    (lambda shapes: plus(final_layer__3__weight=(17, 8, 1, 1))(without(HEAD)(shapes)), "several convolutions"),
    (plus(deconv_layers__0__weight=(8, 8, 4, 4)), "a head of transposed convolutions"),
    (plus(final_layers__0__weight=(34, 8, 1, 1), final_layers__1__weight=(17, 8, 1, 1)), "2 final_layers and 0 deconv"),
    (plus(final_layers__0__weight=(18, 8, 1, 1), final_layers__1__weight=(17, 8, 1, 1),
          deconv_layers__0__0__0__weight=(8, 8, 4, 4)), r"final_layers of \[18, 17\] maps"),
    (plus(stage0__downsample__layer1__0__conv__weight=(8, 8, 1, 1)), r"stage0.downsample of \(1, 0, 0, 0\) blocks"),
    (plus(cascade__0__a=(1,), cascade__1__a=(1,), cascade__2__a=(1,), cascade__3__a=(1,)), "a cascade of 5 stages"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_files_of_no_known_network_are_refused_by_what_is_wrong(change, message):
    with pytest.raises(CheckpointError, match=message):
        recognise(shaped(change(SMALL)), "file")


def test_a_joint_count_that_the_file_has_not_is_refused():
    with pytest.raises(ConfigError, match="has 17 joints, 16 were asked for"):
        recognise(shaped(shapes_of(get_model("higherhrnet_w8_small", 17))), "file", num_joints=16)
    with pytest.raises(ConfigError, match="has 17 joints, 16 were asked for"):
        recognise(shaped(shapes_of(get_model("mspn_r50x1", 17))), "file", num_joints=16)
