"""HRNet classification: logits, names and counts against the reference program; tiny networks against themselves."""

from __future__ import annotations

import pytest
from network_checks import (
    check_activations,
    check_close,
    check_documented,
    check_hybridized,
    check_names,
    golden_input,
    record,
    shapes_of,
)
from rule_weights import fill_by_rule
from shared_data import load_golden

from msposenet.errors import ConfigError
from msposenet.models.initialise import initialise
from msposenet.models.summary import GIBI, summarise
from msposenet.models.zoo import get_model
from msposenet.weights import get_arrays


def test_logits_and_activations_are_the_references():
    g = load_golden("networks/hrnet_cls_w32_224.npz")
    net = fill_by_rule(get_model("hrnet_w32_cls"))
    blocks = {
        "stage4": net.stage4[-1],
        "incre0": net.incre_modules[0],
        "downsamp0": net.downsamp_modules[0],
        "final_layer": net.final_layer,
    }
    with record(blocks) as seen:
        (logits,) = net(golden_input(g))
    check_activations(seen, g)
    check_close(logits, g["logits"])


@pytest.mark.parametrize("width", [32, 48])
def test_parameters_carry_the_official_names_and_shapes(width):
    check_names(get_model(f"hrnet_w{width}_cls"), f"hrnet_cls_w{width}")


# Parameters in 10^6 and multiply-adds in 2^30 at 224 x 224, of the reference program's README.
@pytest.mark.parametrize(
    ("width", "params", "multiply_adds"), [(18, 21.30, 3.99), (32, 41.232680, 8.31), (48, 77.469864, 16.1)]
)
def test_counts(width, params, multiply_adds):
    name = f"hrnet_w{width}_cls"
    figures = summarise(get_model(name), name, (224, 224))
    check_documented(figures)
    assert figures.params / 1e6 == pytest.approx(params, abs=0.006 if width == 18 else 0)
    assert figures.multiply_adds / GIBI == pytest.approx(multiply_adds, abs=0.011)


def test_hybridized_gives_what_the_plain_network_gives():
    check_hybridized("hrnet_w8_small_cls", [(2, 5)], num_classes=5)


def test_joints_play_no_part():
    assert shapes_of(get_model("hrnet_w8_small_cls", num_joints=14), (64, 96)) == [(1, 1000)]


def test_the_classifier_starts_small():
    net = get_model("hrnet_w8_small_cls")
    initialise(net)
    arrays = get_arrays(net)
    assert arrays["classifier.weight"].std() == pytest.approx(0.001, rel=0.01)
    assert arrays["final_layer.0.weight"].std() == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert not arrays["classifier.bias"].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_model("hrnet_w32_clas"), "did you mean hrnet_w32_cls"),
        (lambda: get_model("mshrnet_w32x2_cls"), "unknown model"),
        (lambda: get_model("hrnet_w0_cls"), "width must be"),
        (lambda: get_model("hrnet_w8_cls", head="heatmap"), "hrnet_w8_cls has no choice of head"),
        (lambda: get_model("hrnet_w8_cls", classes=10), "has no option 'classes'"),
        (lambda: get_model("hrnet_w8_cls", num_classes="ten"), "num_classes must be a whole number"),
        (lambda: get_model("hrnet_w8_cls", num_classes=0), "num_classes must be"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)
