"""Networks: outputs, counts, names and construction options against the reference programs and the papers."""

from __future__ import annotations

import numpy as np
import pytest
from network_checks import check_activations, check_close, check_names, golden_input, record, shapes_of
from rule_weights import fill_by_rule
from shared_data import load_golden

from msposenet.config import build_config
from msposenet.errors import CheckpointError, ConfigError
from msposenet.inference.source import find_config
from msposenet.models.build import build_codec, build_network, sanity_check, shifts
from msposenet.models.initialise import initialise
from msposenet.models.summary import GIBI, summarise
from msposenet.models.zoo import ModelInfo, get_model, list_models, model_info
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.weights import get_arrays, load_torch_state_dict
from msposenet.weights.official import official_name


@pytest.fixture(scope="module")
def by_rule():
    load_golden("networks/hrnet_pose_w32_256x192.npz")  # skips where it is absent, before the weights are drawn
    return fill_by_rule(get_model("hrnet_w32"))


def test_hrnet_w32_gives_the_references_heatmaps_and_activations(by_rule):
    g = load_golden("networks/hrnet_pose_w32_256x192.npz")
    stages = {name: getattr(by_rule, name)[-1] for name in ("stage2", "stage3", "stage4")}
    with record({"stem": by_rule.bn2, "layer1": by_rule.layer1, **stages}) as seen:
        outputs = by_rule(golden_input(g))
    check_activations(seen, g)
    check_close(outputs[-1], g["heatmaps"])


def test_hybridized_hrnet_w32_gives_the_references_heatmaps(by_rule):
    g = load_golden("networks/hrnet_pose_w32_256x192.npz")
    by_rule.hybridize(static_alloc=True, static_shape=True)
    check_close(by_rule(golden_input(g))[-1], g["heatmaps"])


@pytest.mark.parametrize(
    ("file", "name", "joints"),
    [
        ("hrnet_pose_w32_k16", "hrnet_w32", 16),
        ("hrnet_pose_w32_k17", "hrnet_w32", 17),
        ("hrnet_pose_w48_k17", "hrnet_w48", 17),
    ],
)
def test_parameters_carry_the_official_names_and_shapes(file, name, joints):
    check_names(get_model(name, joints), file)


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


HRNETS = [name for name in list_models() if model_info(name).family == "hrnet"]


@pytest.mark.parametrize("name", [*HRNETS, "hrnet_w20", "mshrnet_w16x4_small"])
@pytest.mark.parametrize("head", ["heatmap", "offset"])
def test_every_hrnet_has_its_outputs(name, head):
    net = get_model(name, 5, head)
    maps = 5 if head == "heatmap" else 15
    assert shapes_of(net, (64, 96)) == [(1, maps, 16, 24)] * net.spec.stages


@pytest.mark.parametrize("name", [name for name in list_models() if name not in HRNETS])
def test_every_other_network_has_its_outputs(name):
    wanted = {
        "mspn": [(1, 5, 16, 24)] * 4 * (model_info(name).stages or 0),
        "higherhrnet": [(1, 10, 16, 24), (1, 5, 32, 48)],
        "classification": [(1, 1000)],
    }
    assert shapes_of(get_model(name, 5), (64, 96)) == wanted[model_info(name).family]


@pytest.mark.parametrize(
    "info",
    [
        ModelInfo("hrnet_w32", "hrnet", "heatmap", "standard", width=32, stages=1, modules=(1, 4, 3)),
        ModelInfo("mshrnet_w24x3_small", "hrnet", "offset", "unbiased", width=24, stages=3, modules=(1, 1, 1)),
        ModelInfo("mspn_r50x4", "mspn", "heatmap", stages=4, backbone="r50"),
        ModelInfo("higherhrnet_w40", "higherhrnet", "associative", width=40, modules=(1, 4, 3)),
        ModelInfo("hrnet_w18_small_cls", "classification", width=18, modules=(1, 1, 1)),
    ],
    ids=lambda info: info.name,
)
def test_names_stand_for_networks(info):
    assert model_info(info.name) == info
    net = get_model(info.name, 5)
    assert (net.family, net.head, net.convention) == (info.family, info.head, info.convention)
    for option in ("width", "stages", "modules", "backbone"):
        assert getattr(net.spec, option, None) == getattr(info, option), option


@pytest.mark.parametrize("name", ["mspn_r50x2", "higherhrnet_w32", "hrnet_w32_cls"])
@pytest.mark.parametrize("head", [None, "heatmap"])
@pytest.mark.parametrize(
    "use",
    [
        build_codec,
        shifts,
        lambda config: build_network(config, COCO_17),
        lambda config: sanity_check(config, COCO_17),
        lambda config: find_config(config.model.name),
    ],
    ids=["codec", "shifts", "network", "sanity", "predict"],
)
def test_networks_without_training_and_prediction_say_so(name, head, use):
    config = build_config({"model": {"name": name, "head": head}}, "test")
    with pytest.raises(ConfigError, match=rf"^model {name}: .* only hrnet_\* and mshrnet_\* are trained"):
        use(config)


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
        (lambda: get_model("hrnet_w8", num_joints=0), "num_joints must be a whole number from 1 to 1000, found 0"),
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
