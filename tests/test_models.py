"""Networks: outputs, counts, names and construction options against the reference programs and the papers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rule_weights import fill_by_rule, rule_input
from shared_data import golden, load_golden

from msposenet.errors import CheckpointError, ConfigError
from msposenet.models.initialise import initialise
from msposenet.models.summary import GIBI, summarise
from msposenet.models.zoo import get_model, list_models
from msposenet.runtime import mx
from msposenet.weights import get_arrays, load_torch_state_dict
from msposenet.weights.official import official_name


@pytest.mark.parametrize("static", [False, True])
def test_hrnet_w32_gives_the_references_heatmaps(static):
    g = load_golden("networks/hrnet_pose_w32_256x192.npz")
    net = fill_by_rule(get_model("hrnet_w32"))
    if static:
        net.hybridize(static_alloc=True, static_shape=True)
    found = net(mx.nd.array(rule_input(int(g["seed"]), tuple(g["shape"]))))[-1].asnumpy()
    assert np.abs(found - g["heatmaps"]).max() <= 1e-4 * np.abs(g["heatmaps"]).max()


def test_inner_activations_are_the_references():
    g = load_golden("networks/hrnet_pose_w32_256x192.npz")
    net = fill_by_rule(get_model("hrnet_w32"))
    seen: dict[str, np.ndarray] = {}

    def keep(name):
        def hook(block, inputs, outputs):
            for i, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else [outputs]):
                seen[f"{name}_{i}"] = output.asnumpy()

        return hook

    net.bn2.register_forward_hook(keep("stem"))
    net.layer1.register_forward_hook(keep("layer1"))
    for stage in ("stage2", "stage3", "stage4"):
        getattr(net, stage)[-1].register_forward_hook(keep(stage))
    net(mx.nd.array(rule_input(int(g["seed"]), tuple(g["shape"]))))
    for key in g:
        if key.startswith("act_") and key.endswith("_sample"):
            name = key[len("act_") : -len("_sample")]
            found = seen[name if name in seen else f"{name}_0"]
            wanted = g[key]
            assert found.shape == tuple(g[key.replace("_sample", "_shape")])
            assert np.abs(found.ravel()[::97] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


@pytest.mark.parametrize(
    ("file", "name", "joints"),
    [
        ("hrnet_pose_w32_k16", "hrnet_w32", 16),
        ("hrnet_pose_w32_k17", "hrnet_w32", 17),
        ("hrnet_pose_w48_k17", "hrnet_w48", 17),
    ],
)
def test_parameters_carry_the_official_names_and_shapes(file, name, joints):
    published = json.loads(golden(f"state_dicts/{file}.json").read_text())
    net = get_model(name, joints)
    ours = {official_name(key): list(p.shape) for key, p in net._collect_params_with_prefix().items()}
    assert ours == {key: shape for key, shape in published["entries"].items() if "num_batches" not in key}
    assert summarise(net, name, (256, 192)).params == published["parameters"]


# name, joints, head, input, options -> parameters, multiply-adds in 2^30 (HRNet's, UDP's and the report's figures).
COUNTS = [
    ("hrnet_w32", 17, None, (256, 192), {}, 28.536, 7.120),
    ("hrnet_w32", 17, None, (384, 288), {}, 28.536, 16.020),
    ("hrnet_w32", 16, None, (256, 256), {}, 28.536, 9.493),
    ("hrnet_w48", 17, None, (256, 192), {}, 63.596, 14.614),
    ("hrnet_w48", 17, None, (384, 288), {}, 63.596, 32.882),
    ("hrnet_w48", 16, None, (256, 256), {}, 63.596, 19.485),
    ("hrnet_w32", 17, "offset", (256, 192), {"wide_fuse": True}, 28.590, 7.156),
    ("hrnet_w32", 17, "offset", (384, 288), {"wide_fuse": True}, 28.590, 16.102),
    ("hrnet_w48", 17, "offset", (256, 192), {"wide_fuse": True}, 63.712, 14.684),
    ("hrnet_w48", 17, "offset", (384, 288), {"wide_fuse": True}, 63.712, 33.038),
    ("mshrnet_w48x2", 17, None, (384, 288), {}, 125.99, 61.47),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {}, 125.99, 61.45),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {"entry": "image", "repeat_stage2": True}, 127.19, 65.76),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {"entry": "cross64", "repeat_stage2": True}, 127.16, 65.50),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {"repeat_stage2": True}, 126.87, 63.66),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {"entry": "hires", "repeat_stage2": True}, 126.58, 62.66),
    ("mshrnet_w48x2", 17, "heatmap", (384, 288), {"entry": "hires"}, 125.70, 60.45),
    ("mshrnet_w48x2", 17, "offset", (384, 288), {"entry": "hires", "wide_fuse": True}, 126.14, 61.50),
]


@pytest.mark.parametrize(("name", "joints", "head", "size", "options", "params", "multiply_adds"), COUNTS)
def test_counts_of_the_papers(name, joints, head, size, options, params, multiply_adds):
    figures = summarise(get_model(name, joints, head, **options), name, size)
    assert figures.params / 1e6 == pytest.approx(params, abs=0.006)
    assert figures.multiply_adds / GIBI == pytest.approx(multiply_adds, abs=0.0051)


def test_exact_parameter_counts():
    assert summarise(get_model("hrnet_w32"), "", (256, 192)).params == 28_536_113
    assert summarise(get_model("hrnet_w16_small", 14), "", (128, 96)).params == 2_628_398
    kept = get_model("mshrnet_w48x2", 17, repeat_stage2=True, keep_all_scales=True)
    assert summarise(kept, "", (384, 288)).params / 1e6 == pytest.approx(128.60, abs=0.006)


@pytest.mark.parametrize("name", [*list_models(), "hrnet_w20", "mshrnet_w16x4_small"])
@pytest.mark.parametrize("head", ["heatmap", "offset"])
def test_every_zoo_network_has_its_outputs(name, head):
    net = get_model(name, 5, head)
    outputs = net(mx.sym.var("data"))
    _, shapes, _ = mx.sym.Group(list(outputs)).infer_shape(data=(2, 3, 64, 96))
    maps = 5 if head == "heatmap" else 15
    assert shapes == [(2, maps, 16, 24)] * net.spec.stages


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"entry": "hires"},
        {"entry": "cross64"},
        {"entry": "image"},
        {"repeat_stage2": True},
        {"keep_all_scales": True},
        {"wide_fuse": True},
        {"aggregate": False},
    ],
    ids=str,
)
def test_hybridized_gives_what_the_plain_network_gives(options):
    net = get_model("mshrnet_w8x3_small", 3, **options)
    initialise(net)
    x = mx.nd.random.normal(shape=(2, 3, 64, 64))
    plain = [output.asnumpy() for output in net(x)]
    net.hybridize(static_alloc=True, static_shape=True)
    for wanted, found in zip(plain, net(x)):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-4, atol=1e-6)


def test_aggregation_joins_the_stages():
    """Without the plus, nothing that stage 1 does beyond layer1 reaches stage 2."""
    x = mx.nd.random.normal(shape=(1, 3, 64, 64))
    for aggregate, reaches in ((True, True), (False, False)):
        net = get_model("mshrnet_w8x2_small", 3, aggregate=aggregate)
        initialise(net)
        before = net(x)[-1].asnumpy()
        arrays = get_arrays(net)
        weight = net.stage4[0].branches.get(0)[0].conv1.weight
        weight.set_data(mx.nd.array(arrays["stage4.0.branches.0.0.conv1.weight"] * 3 + 0.1))
        assert (np.abs(net(x)[-1].asnumpy() - before).max() > 1e-9) == reaches


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_model("hrnet_w32x2"), "unknown model"),
        (lambda: get_model("mshrnet_w48"), "did you mean mshrnet_w48"),
        (lambda: get_model("hrnet_32"), "did you mean hrnet_w32"),
        (lambda: get_model("mshrnet_w8x2", entri="hires"), "did you mean 'entry'"),
        (lambda: get_model("mshrnet_w8x2", entry="layer2"), "unknown entry 'layer2'"),
        (lambda: get_model("hrnet_w8", head="offsets"), "unknown head 'offsets'"),
        (lambda: get_model("hrnet_w8", num_joints=0), "num_joints must be 1"),
        (lambda: get_model("hrnet_w0"), "width must be"),
        (lambda: get_model("hrnet_w8", modules=(1, 0, 1)), "modules are three counts"),
        (lambda: get_model("hrnet_w8", modules=3), "modules are three counts"),
        (lambda: get_model("hrnet_w8", modules=[1, 1, 1.5]), "modules are three counts"),
        (lambda: get_model("mshrnet_w8x2", repeat_stage2="no"), "repeat_stage2 is true or false, found 'no'"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)


def official(net) -> dict[str, np.ndarray]:
    return {official_name(name): array for name, array in get_arrays(net).items()}


def test_state_dict_loading_is_strict_unless_told_otherwise():
    source, net = get_model("hrnet_w8_small", 3), get_model("hrnet_w8_small", 3)
    initialise(source, seed=1)
    arrays = official(source)
    load_torch_state_dict(net, {**arrays, "bn1.num_batches_tracked": np.array(7)})
    assert all(np.array_equal(array, arrays[name]) for name, array in official(net).items())
    with pytest.raises(CheckpointError, match=r"conv1\.weight is missing"):
        load_torch_state_dict(net, {name: array for name, array in arrays.items() if name != "conv1.weight"})
    with pytest.raises(CheckpointError, match=r"head\.0 is not in the network"):
        load_torch_state_dict(net, {**arrays, "head.0": np.zeros(3)})
    with pytest.raises(CheckpointError, match="another joint count"):
        load_torch_state_dict(net, official_of(get_model("hrnet_w8_small", 4)))
    done = load_torch_state_dict(net, {"conv1.weight": arrays["conv1.weight"], "fc.bias": np.zeros(2)}, strict=False)
    assert done.filled == ("conv1.weight",) and done.unused == ("fc.bias",)
    with pytest.raises(CheckpointError, match="none of its 1 arrays"):
        load_torch_state_dict(net, {"fc.bias": np.zeros(2)}, strict=False)


def official_of(net) -> dict[str, np.ndarray]:
    initialise(net)
    return official(net)


def test_initial_values_follow_the_recipe():
    net = get_model("hrnet_w16_small", 14)
    initialise(net, "he", seed=3)
    arrays = get_arrays(net)
    weight = arrays["layer1.0.conv2.weight"]
    assert weight.std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert arrays["final_layer.weight"].std() == pytest.approx(0.001, rel=0.15)
    assert not arrays["final_layer.bias"].any() and not arrays["bn1.beta"].any()
    assert (arrays["bn1.gamma"] == 1).all() and (arrays["bn1.running_var"] == 1).all()
    initialise(net, "he", seed=3)
    assert all(np.array_equal(array, arrays[name]) for name, array in get_arrays(net).items())
    initialise(net, "normal", seed=3)
    assert get_arrays(net)["layer1.0.conv2.weight"].std() == pytest.approx(0.001, rel=0.02)
