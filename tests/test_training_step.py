"""Three updates of HRNet-W32 against PyTorch: outputs, loss, gradients, statistics and weights."""

from __future__ import annotations

import numpy as np
import pytest
from rule_weights import fill_by_rule, rule_input
from shared_data import load_golden

from msposenet import losses
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.training.optimizer import Adam
from msposenet.weights import get_arrays
from msposenet.weights.official import official_name

LOSS_TOLERANCE = (1e-5, 1e-3, 5e-3, 1e-2)  # before the first update, and after 1, 2, 3


def test_three_steps_of_hrnet_w32():
    g = load_golden("training/hrnet_pose_w32_128x96.npz")
    net = fill_by_rule(get_model("hrnet_w32"))
    net.hybridize(static_alloc=True, static_shape=True)
    parameters = {official_name(name): p for name, p in net._collect_params_with_prefix().items()}
    trainer = mx.gluon.Trainer(
        [p for p in parameters.values() if p.grad_req != "null"], Adam(learning_rate=1e-3), kvstore=None
    )
    x = mx.nd.array(rule_input(int(g["seed"]), tuple(g["shape"])))
    target, weight = mx.nd.array(g["data_target"]), mx.nd.array(g["data_target_weight"][..., 0])
    names = [str(name) for name in g["tensor_names"]]
    before = {key: array for key, array in get_arrays(net).items() if "running" in key}
    for update in range(4):
        with mx.autograd.record():
            output = net(x)[-1]
            loss = losses.heatmap_mse(mx.nd, output, target, weight)
        if update == 0:
            assert np.abs(output.asnumpy() - g["output"]).max() <= 1e-4 * np.abs(g["output"]).max()
        assert loss.asscalar() == pytest.approx(g["losses"][update], rel=LOSS_TOLERANCE[update])
        if update == 3:
            break
        loss.backward()
        if update == 0:
            check_gradients(g, names, parameters)
            check_statistics(g, net, before, x.shape)
        trainer.step(1)
        if update == 0:
            for name, wanted in zip(names, g["weight_after_step1_first8"]):
                found = parameters[name].data().asnumpy().ravel()[:8]
                # A first step of Adam moves by lr times the gradient's sign, however small the gradient is.
                np.testing.assert_allclose(found, wanted[: len(found)], atol=2e-5)


def check_gradients(g, names, parameters):
    for name, norm, first in zip(names, g["grad_norm"], g["grad_first8"]):
        gradient = parameters[name].grad().asnumpy().astype(np.float64)
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=2e-3), name
        np.testing.assert_allclose(gradient.ravel()[:8], first, atol=2e-3 * norm)


def check_statistics(g, net, before, shape):
    strides = {"bn1": 2, "stage3.0.branches.0.0.bn1": 4, "stage4.2.fuse_layers.0.3.1": 32}
    after = get_arrays(net)
    for layer in (str(name) for name in g["bn_names"]):
        np.testing.assert_allclose(after[f"{layer}.running_mean"], g[f"running_mean.{layer}"], rtol=1e-5, atol=1e-6)
        count = shape[0] * (shape[2] // strides[layer]) * (shape[3] // strides[layer])
        kept = 0.9 * before[f"{layer}.running_var"]
        # MXNet's running variance takes the biased batch variance, PyTorch's the unbiased one.
        unbiased = kept + (after[f"{layer}.running_var"] - kept) * count / (count - 1)
        np.testing.assert_allclose(unbiased, g[f"running_var.{layer}"], rtol=1e-5)
