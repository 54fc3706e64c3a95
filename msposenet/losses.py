"""Losses of one network output as graph expressions: F is mx.nd or mx.sym, the result a scalar of shape (1,).

Masked joints stay in the denominators, as in the reference programs: a batch with few labels weighs less, not the same.
"""

from __future__ import annotations


def heatmap_mse(F, predicted, target, weight):
    """Half the mean square of weight x difference over batch, joints and pixels (HRNet).

    predicted, target: (N, K, H, W); weight: (N, K). The weight multiplies before squaring, so 1.5 counts 2.25.
    """
    return F.mean(_joint_losses(F, predicted, target, weight))


def heatmap_ohkm(F, predicted, target, weight, top: int = 8):
    """Online hard keypoint mining (Chen et al., CPN, CVPR 2018): of each sample only the `top` worst joints count.

    Shapes as in `heatmap_mse`; the joint losses are averaged over those `top`, then over the batch. With fewer than
    `top` labelled joints the rest of the places is filled by joints without loss, as in the reference.
    """
    return F.mean(F.topk(_joint_losses(F, predicted, target, weight), axis=1, k=top, ret_typ="value"))


def offset_loss(F, predicted, target, weight, kind: str = "mse", offset_weight: float = 1.0):
    """Class and offset loss of the offset head (UDP-Pose): returns (class term, offset term).

    predicted, target: (N, 3K, H, W), class, dx, dy interleaved; weight: (N, K). Offsets are compared inside the
    target's disk only. `kind`: `mse` halves the mean square of each map; `smooth_l1` takes Huber's loss instead.
    """
    p = F.reshape(predicted, shape=(0, -4, -1, 3, 0, 0))
    t = F.reshape(target, shape=(0, -4, -1, 3, 0, 0))
    disk = F.slice_axis(t, axis=2, begin=0, end=1)
    difference = p - t
    classes = F.squeeze(F.slice_axis(difference, axis=2, begin=0, end=1), axis=2)
    # The disk is repeated rather than broadcast: broadcasting's backward sums a gradient that nobody reads.
    offsets = F.slice_axis(difference, axis=2, begin=1, end=3) * F.concat(disk, disk, dim=2)
    if kind == "mse":
        per_joint = F.mean(F.square(offsets), axis=(2, 3, 4)) * F.square(weight)
    else:
        scale = F.BlockGrad(F.broadcast_like(F.reshape(weight, shape=(0, 0, 1, 1, 1)), offsets))
        per_joint = 2 * F.mean(F.smooth_l1(offsets * scale, scalar=1.0), axis=(2, 3, 4))
    class_term = 0.5 * F.mean(F.mean(F.square(classes), axis=(2, 3)) * F.square(weight))
    # dx and dy are two terms of the sum in the reference: their common mean counts twice, times a half.
    return class_term, offset_weight * F.mean(per_joint)


def _joint_losses(F, predicted, target, weight):
    """Half the mean square of weight x difference of each joint (N, K): the weight leaves the mean squared."""
    return 0.5 * F.mean(F.square(predicted - target), axis=(2, 3)) * F.square(weight)
