"""HigherHRNet: outputs, names and counts against the reference program; tiny networks against themselves."""

from __future__ import annotations

import pytest
from network_checks import (
    check_activations,
    check_close,
    check_documented,
    check_exported,
    check_hybridized,
    check_names,
    golden_input,
    record,
)
from rule_weights import fill_by_rule
from shared_data import load_golden

from msposenet.errors import ConfigError
from msposenet.models.initialise import initialise
from msposenet.models.summary import summarise
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.weights import get_arrays


@pytest.fixture(scope="module")
def by_rule():
    load_golden("networks/higherhrnet_w32_256.npz")  # skips where it is absent, before the weights are drawn
    return fill_by_rule(get_model("higherhrnet_w32"))


def test_outputs_and_activations_are_the_references(by_rule):
    g = load_golden("networks/higherhrnet_w32_256.npz")
    with record({"stage4": by_rule.stage4[-1], "deconv0": by_rule.deconv_layers[0][0]}) as seen:
        quarter, half = by_rule(golden_input(g))
    check_activations(seen, g)
    check_close(quarter, g["quarter"])
    check_close(half, g["half"])


def test_outputs_in_training_are_the_references(by_rule):
    g = load_golden("training/higherhrnet_w32_128.npz")
    with mx.autograd.train_mode():
        quarter, half = by_rule(golden_input(g))
    check_close(quarter, g["quarter"])
    check_close(half, g["half"])


@pytest.mark.parametrize(("width", "joints"), [(32, 14), (32, 17), (48, 17)])
def test_parameters_carry_the_official_names_and_shapes(width, joints):
    check_names(get_model(f"higherhrnet_w{width}", joints), f"higherhrnet_w{width}_k{joints}")


# Name, input, options, parameters in 10^6, multiply-adds in 10^9: README and paper, the transposed convolution counted
# at its true cost.
COUNTS = [
    ("higherhrnet_w32", 512, {}, 28.645, 46.20),
    ("higherhrnet_w32", 512, {"residual_blocks": 0}, 28.571, 41.37),
    ("higherhrnet_w32", 512, {"residual_blocks": 0, "deconvolutions": 0}, 28.537, 40.78),
    ("higherhrnet_w40", 640, {}, 44.484, 107.05),
    ("higherhrnet_w48", 640, {}, 63.827, 149.47),
]


@pytest.mark.parametrize(("name", "size", "options", "params", "multiply_adds"), COUNTS)
def test_counts(name, size, options, params, multiply_adds):
    figures = summarise(get_model(name, **options), name, (size, size))
    assert figures.params / 1e6 == pytest.approx(params, abs=0.0006)
    assert figures.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=0.006)
    if not options:
        check_documented(figures)


def test_hybridized_gives_what_the_plain_network_gives():
    check_hybridized("higherhrnet_w8_small", [(2, 6, 16, 24), (2, 3, 32, 48)])


def test_one_graph_serves_inputs_of_any_size(tmp_path):
    check_exported("higherhrnet_w8_small", tmp_path)


def test_more_transposed_convolutions_go_on_doubling():
    shapes = [(2, 6, 16, 24), (2, 3, 32, 48), (2, 3, 64, 96)]
    check_hybridized("higherhrnet_w8_small", shapes, deconvolutions=2, residual_blocks=1)


def test_both_heads_start_small():
    net = get_model("higherhrnet_w16_small", 17, residual_blocks=1)
    initialise(net)
    arrays = get_arrays(net)
    for head in ("final_layers.0", "final_layers.1"):
        assert arrays[f"{head}.weight"].std() == pytest.approx(0.001, rel=0.15)
        assert not arrays[f"{head}.bias"].any()
    assert arrays["deconv_layers.0.1.0.conv1.weight"].std() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_model("higherhrnet_32"), "did you mean higherhrnet_w32"),
        (lambda: get_model("higherhrnet_w0"), "width must be"),
        (lambda: get_model("higherhrnet_w8", head="heatmap"), "higherhrnet_w8 has no choice of head"),
        (lambda: get_model("higherhrnet_w8", num_joints=1001), "num_joints must be"),
        (lambda: get_model("higherhrnet_w8", deconvolution=1), "did you mean 'deconvolutions'"),
        (lambda: get_model("higherhrnet_w8", deconvolutions=4), "deconvolutions must be"),
        (lambda: get_model("higherhrnet_w8", residual_blocks=-1), "residual_blocks must be"),
        (lambda: get_model("higherhrnet_w8", modules=[1, 2]), "modules are three counts"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)
