"""Elementary operations of MXNet against PyTorch's: what the networks and the optimiser are made of."""

from __future__ import annotations

import numpy as np
import pytest
from shared_data import load_golden

from msposenet.models.layers import batch_norm
from msposenet.runtime import mx
from msposenet.training.optimizer import Adam


@pytest.fixture(scope="module")
def ops():
    return load_golden("ops/torch_ops.npz")


def close(found, wanted):
    np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_nearest_upsampling(ops, factor):
    close(mx.nd.UpSampling(mx.nd.array(ops["x"]), scale=factor, sample_type="nearest"), ops[f"nearest_scale{factor}"])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", ["10x14", "9x16", "3x4", "20x28"])
def test_bilinear_resize(ops, aligned, size):
    height, width = (int(part) for part in size.split("x"))
    found = mx.nd.contrib.BilinearResize2D(mx.nd.array(ops["x"]), height=height, width=width, align_corners=aligned)
    close(found, ops[f"bilinear_align_{aligned}_{size}"])


@pytest.mark.parametrize("aligned", [True, False])
def test_bilinear_gradient(ops, aligned):
    x = mx.nd.array(ops["x"])
    x.attach_grad()
    with mx.autograd.record():
        y = mx.nd.contrib.BilinearResize2D(x, height=10, width=14, align_corners=aligned)
    y.backward(mx.nd.array(ops[f"bilinear_align_{aligned}_upstream_grad"]))
    close(x.grad, ops[f"bilinear_align_{aligned}_grad"])


def test_convolutions_and_pooling(ops):
    x = mx.nd.array(ops["x"])
    weight, bias = mx.nd.array(ops["conv_weight"]), mx.nd.array(ops["conv_bias"])
    found = mx.nd.Convolution(x, weight, bias, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=6)
    close(found, ops["conv3x3_stride2_pad1"])
    weight = mx.nd.array(ops["deconv_weight_in_out_kh_kw"])
    found = mx.nd.Deconvolution(x, weight, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=4, no_bias=True)
    close(found, ops["deconv4x4_stride2_pad1"])
    found = mx.nd.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    close(found, ops["maxpool3x3_stride2_pad1"])
    found = mx.nd.Pooling(x, kernel=(5, 5), stride=(1, 1), pad=(2, 2), pool_type="max")
    close(found, ops["maxpool5x5_stride1_pad2"])


def test_batch_norm_in_use_and_in_training(ops):
    layer = batch_norm(3)
    layer.initialize()
    for name, key in (("gamma", "gamma"), ("beta", "beta"), ("running_mean", "mean"), ("running_var", "var")):
        getattr(layer, name).set_data(mx.nd.array(ops[f"bn_{key}"]))
    x = mx.nd.array(ops["x"])
    close(layer(x), ops["bn_eval"])
    with mx.autograd.record():
        y = layer(x)
    close(y, ops["bn_train"])
    y.backward()  # MXNet moves the statistics here
    mx.nd.waitall()
    close(layer.running_mean.data(), ops["bn_mean_after"])
    # MXNet averages the biased variance, PyTorch the unbiased one: they differ by n / (n - 1).
    count = x.shape[0] * x.shape[2] * x.shape[3]
    moved = (layer.running_var.data().asnumpy() - 0.9 * ops["bn_var"]) * count / (count - 1) + 0.9 * ops["bn_var"]
    np.testing.assert_allclose(moved, ops["bn_var_after"], rtol=1e-5)


def test_adam_is_the_published_one(ops):
    parameter = mx.gluon.Parameter("w", shape=ops["adam_start"].shape)
    parameter.initialize(ctx=mx.cpu())
    parameter.set_data(mx.nd.array(ops["adam_start"]))
    trainer = mx.gluon.Trainer([parameter], Adam(learning_rate=1e-3), kvstore=None)
    for gradient, wanted in zip(ops["adam_grads"], ops["adam_values"]):
        with mx.autograd.record():
            loss = (parameter.data() * mx.nd.array(gradient)).sum()
        loss.backward()
        trainer.step(1)
        np.testing.assert_allclose(parameter.data().asnumpy(), wanted, rtol=1e-5, atol=1e-7)
