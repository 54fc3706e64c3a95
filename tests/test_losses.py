"""Losses and their gradients on given arrays against the reference programs."""

from __future__ import annotations

import numpy as np
import pytest
from shared_data import load_golden

from msposenet import losses
from msposenet.runtime import mx


def value_and_gradient(loss, predicted):
    x = mx.nd.array(predicted)
    x.attach_grad()
    with mx.autograd.record():
        value = loss(x)
    value.backward()
    return value.asscalar(), x.grad.asnumpy()


@pytest.mark.parametrize(
    ("name", "function", "options", "weighted"),
    [
        ("mse_weighted", losses.heatmap_mse, {}, True),
        ("mse_plain", losses.heatmap_mse, {}, False),
        ("ohkm8_weighted", losses.heatmap_ohkm, {"top": 8}, True),
        ("ohkm8_plain", losses.heatmap_ohkm, {"top": 8}, False),
        ("ohkm4_weighted", losses.heatmap_ohkm, {"top": 4}, True),
    ],
)
def test_heatmap_losses(name, function, options, weighted):
    g = load_golden("losses/hrnet_losses.npz")
    weight = mx.nd.array(g["target_weight"][..., 0] if weighted else np.ones((2, 17)))
    target = mx.nd.array(g["target"])
    value, gradient = value_and_gradient(lambda x: function(mx.nd, x, target, weight, **options), g["pred"])
    assert value == pytest.approx(float(g[f"{name}_loss"]), rel=1e-5)
    if f"{name}_grad" in g:
        wanted = g[f"{name}_grad"]
        assert np.abs(gradient - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["weighted", "plain"])
def test_offset_loss(name):
    g = load_golden("losses/udp_offset_loss.npz")
    weight = mx.nd.array(g["target_weight"][..., 0] if name == "weighted" else np.ones((2, 17)))
    target = mx.nd.array(g["target"])
    value, gradient = value_and_gradient(lambda x: sum(losses.offset_loss(mx.nd, x, target, weight)), g["pred"])
    wanted = g[f"offset_{name}_grad"]
    assert value == pytest.approx(float(g[f"offset_{name}_loss"]), rel=1e-5)
    assert np.abs(gradient - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_smooth_l1_counts_inside_the_disk_only_and_grows_linearly():
    target = np.zeros((1, 3, 2, 2), np.float32)
    target[0, 0, 0, 0] = 1.0
    predicted = target.copy()
    predicted[0, 1] = [[3.0, 5.0], [5.0, 5.0]]  # dx is 3 off inside the disk, 5 off outside it
    weight = mx.nd.ones((1, 1))

    def terms(kind, offset_weight=1.0):
        arrays = (mx.nd.array(predicted), mx.nd.array(target))
        found = losses.offset_loss(mx.nd, *arrays, weight, kind=kind, offset_weight=offset_weight)
        return [float(term.asscalar()) for term in found]

    assert terms("smooth_l1") == [0.0, pytest.approx((3 - 0.5) / 4)]
    assert terms("mse") == [0.0, pytest.approx(0.5 * 9 / 4)]
    assert terms("mse", offset_weight=2.0)[1] == pytest.approx(9 / 4)


def test_a_joint_without_weight_adds_nothing():
    target, weight = mx.nd.zeros((1, 6, 4, 4)), mx.nd.array([[1, 0]])
    predicted = np.zeros((1, 6, 4, 4), np.float32)
    predicted[0, 3:] = 9.0
    classes, offsets = losses.offset_loss(mx.nd, mx.nd.array(predicted), target, weight)
    assert classes.asscalar() == 0 and offsets.asscalar() == 0
    heat = losses.heatmap_mse(mx.nd, mx.nd.array(predicted[:, [0, 3]]), mx.nd.zeros((1, 2, 4, 4)), weight)
    assert heat.asscalar() == 0
