"""MSPN: outputs, names and counts against the released program; tiny networks against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from network_checks import (
    check_activations,
    check_close,
    check_exported,
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
from msposenet.models.mspn import MSPN, MSPNSpec
from msposenet.models.summary import summarise
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.weights import get_arrays

TINY = {"planes": 4, "up_width": 8}


@pytest.fixture(scope="module")
def by_rule():
    load_golden("networks/mspn_2stage_256x192.npz")  # skips where it is absent, before the weights are drawn
    return fill_by_rule(get_model("mspn_r50x2"))


def test_outputs_and_activations_are_the_references(by_rule):
    g = load_golden("networks/mspn_2stage_256x192.npz")
    encoder = by_rule.stage0.downsample
    layers = {f"stage0_down_{i}": getattr(encoder, f"layer{4 - i}") for i in range(4)}
    with record({"top": by_rule.top, **layers}) as seen:
        outputs = by_rule(golden_input(g))
    check_activations(seen, g)
    names = [f"stage{stage}_out{unit}" for stage in range(2) for unit in range(4)]
    assert len(outputs) == len(names)
    for name, output in zip(names, outputs):
        check_close(output, g[name])
    assert np.array_equal(g["inference"], g["stage1_out3"])


def test_outputs_in_training_are_the_references(by_rule):
    g = load_golden("training/mspn_2stage_128x96.npz")
    with mx.autograd.train_mode():
        outputs = by_rule(golden_input(g))
    for i, output in enumerate(outputs):
        check_close(output, g[f"stage{i // 4}_out{i % 4}"])


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_parameters_carry_the_official_names_and_shapes(stages):
    check_names(get_model(f"mspn_r50x{stages}"), f"mspn_{stages}stage_k17")


# Name, joints, input, parameters in 10^6, multiply-adds in 10^9, of the released network.
COUNTS = [
    ("mspn_r50x1", 17, (256, 192), 25.142, 5.073),
    ("mspn_r50x2", 17, (256, 192), 56.867, 11.263),
    ("mspn_r50x3", 17, (256, 192), 88.592, 17.453),
    ("mspn_r50x4", 17, (256, 192), 120.318, 23.643),
    ("mspn_r50x2", 17, (384, 288), 56.867, 25.34),
    ("mspn_r50x4", 16, (256, 256), 120.281, 31.47),
]


@pytest.mark.parametrize(("name", "joints", "size", "params", "multiply_adds"), COUNTS)
def test_counts(name, joints, size, params, multiply_adds):
    figures = summarise(get_model(name, joints), name, size)
    assert figures.params / 1e6 == pytest.approx(params, abs=0.0006)
    assert figures.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=0.006 if size != (256, 192) else 0.0006)


@pytest.mark.parametrize("stages", [1, 3])
def test_hybridized_gives_what_the_plain_network_gives(stages):
    check_hybridized(f"mspn_r50x{stages}", [(2, 3, 16, 24)] * 4 * stages, **TINY)


def test_one_graph_serves_inputs_of_any_size(tmp_path):
    check_exported("mspn_r50x2", tmp_path, **TINY)


def test_coarse_units_are_enlarged_corner_on_corner():
    """The outermost values lie on the outermost cells, and everything between them on straight lines."""
    net = get_model("mspn_r50x1", 3, **TINY)
    initialise(net)
    with record({"small": net.stage0.upsample.up1.res_conv2}) as seen:
        large = net(mx.nd.random.normal(shape=(1, 3, 64, 96)))[0].asnumpy()
    small = seen["small"]
    assert small.shape == (1, 3, 2, 3) and large.shape == (1, 3, 16, 24)
    rows, columns = np.linspace(0, 1, 16), np.linspace(0, 2, 24)
    for joint in range(3):
        at_columns = np.stack([np.interp(columns, np.arange(3), row) for row in small[0, joint]])
        wanted = at_columns[:1] * (1 - rows[:, None]) + at_columns[1:] * rows[:, None]
        np.testing.assert_allclose(large[0, joint], wanted, atol=1e-5 * np.abs(small).max())


@pytest.mark.parametrize("part", ["skip1", "skip2", "cross_conv"])
def test_every_link_reaches_the_next_stage(part):
    net = get_model("mspn_r50x2", 3, **TINY)
    initialise(net)
    x = mx.nd.random.normal(shape=(1, 3, 64, 64))
    before = [output.asnumpy() for output in net(x)]
    shift = getattr(net.stage0.upsample.up4, part).bn.beta
    shift.set_data(shift.data() + 1)
    after = [output.asnumpy() for output in net(x)]
    changed = [np.abs(one - other).max() > 1e-9 for one, other in zip(before, after)]
    assert changed == [False] * 4 + [True] * 4


def test_the_last_stage_sends_nothing():
    names = get_arrays(initialised("mspn_r50x1"))
    assert not [name for name in names if "skip1" in name or "skip2" in name or "cross_conv" in name]


def test_heads_end_in_batch_norm_and_are_drawn_like_the_rest():
    arrays = get_arrays(initialised("mspn_r50x1", up_width=256))
    assert arrays["stage0.upsample.up4.res_conv2.conv.weight"].std() == pytest.approx((2 / 27) ** 0.5, rel=0.05)
    assert not arrays["stage0.upsample.up4.res_conv2.conv.bias"].any()


def initialised(name: str, **options):
    net = get_model(name, 3, **{**TINY, **options})
    initialise(net)
    return net


def test_shapes_follow_the_input():
    assert shapes_of(get_model("mspn_r50x2", 16, **TINY), (384, 288)) == [(1, 16, 96, 72)] * 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_model("mspn_r50"), "did you mean mspn_r50x"),
        (lambda: get_model("mspn_r50x5"), "did you mean mspn_r50x"),
        (lambda: get_model("mspn_r101x2"), "did you mean mspn_r50x"),
        (lambda: get_model("mspn_r50x2", head="offset"), "mspn_r50x2 has no choice of head; leave out head 'offset'"),
        (lambda: get_model("mspn_r50x2", num_joints=0), "num_joints must be"),
        (lambda: get_model("mspn_r50x2", plane=8), "did you mean 'planes'"),
        (lambda: get_model("mspn_r50x2", stages=3), "mspn_r50x2 has no option 'stages'"),
        (lambda: get_model("mspn_r50x2", planes=0), "planes must be"),
        (lambda: get_model("mspn_r50x2", up_width=2.5), "up_width must be a whole number from 1 to 4096, found 2.5"),
        (lambda: MSPNSpec(stages=5), "stages must be"),
        (lambda: MSPNSpec(backbone="r101"), "unknown MSPN backbone 'r101'; known: r50"),
        (lambda: MSPN(MSPNSpec(), True), "num_joints must be a whole number from 1 to 1000, found True"),
    ],
)
def test_impossible_networks_are_refused(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)
