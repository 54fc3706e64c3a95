"""Losses of one network output as graph expressions: F is mx.nd or mx.sym, the result a scalar of shape (1,).

Masked joints stay in the denominators, as in the reference programs: a batch with few labels weighs less, not the same.
"""

from __future__ import annotations


def _weighted(F, maps, weight):
    return F.broadcast_mul(maps, F.reshape(weight, shape=(0, 0, 1, 1)))


def heatmap_mse(F, predicted, target, weight):
    """Half the mean square of weight x difference over batch, joints and pixels (HRNet).

    predicted, target: (N, K, H, W); weight: (N, K). The weight multiplies before squaring, so 1.5 counts 2.25.
    """
    return 0.5 * F.mean(F.square(_weighted(F, predicted - target, weight)))


def heatmap_ohkm(F, predicted, target, weight, top: int = 8):
    """Online hard keypoint mining (Chen et al., CPN, CVPR 2018): of each sample only the `top` worst joints count.

    Shapes as in `heatmap_mse`; the joint losses are averaged over those `top`, then over the batch. With fewer than
    `top` labelled joints the rest of the places is filled by joints without loss, as in the reference.
    """
    squares = F.square(_weighted(F, predicted - target, weight))
    per_joint = 0.5 * F.mean(squares, axis=(2, 3))
    return F.mean(F.topk(per_joint, axis=1, k=top, ret_typ="value"))


def offset_loss(F, predicted, target, weight, kind: str = "mse", offset_weight: float = 1.0):
    """Class and offset loss of the offset head (UDP-Pose): returns (class term, offset term).

    predicted, target: (N, 3K, H, W), class, dx, dy interleaved; weight: (N, K). Offsets are compared inside the
    target's disk only. `kind`: `mse` halves the mean square of each map; `smooth_l1` takes Huber's loss instead.
    """
    p = F.reshape(predicted, shape=(0, -4, -1, 3, 0, 0))
    t = F.reshape(target, shape=(0, -4, -1, 3, 0, 0))
    w = F.reshape(weight, shape=(0, 0, 1, 1, 1))
    difference = F.broadcast_mul(p - t, w)
    disk = F.slice_axis(t, axis=2, begin=0, end=1)
    classes = F.slice_axis(difference, axis=2, begin=0, end=1)
    offsets = F.broadcast_mul(F.slice_axis(difference, axis=2, begin=1, end=3), disk)
    penalty = _half_square if kind == "mse" else _smooth_l1
    # dx and dy are two terms of the sum in the reference, hence the factor 2 on their common mean.
    return F.mean(_half_square(F, classes)), 2 * offset_weight * F.mean(penalty(F, offsets))


def _half_square(F, x):
    return 0.5 * F.square(x)


def _smooth_l1(F, x):
    return F.smooth_l1(x, scalar=1.0)
