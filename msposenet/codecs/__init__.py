"""Keypoints to maps and back: one module a codec, encode and decode side by side.

A codec offers `encode` (NumPy, for tests and inspection), `targets` (the same in the network's graph, on the device),
`decode` (NumPy), `decode_in_graph` (for exported graphs) and `flip_back`. Joints enter in crop px, decoded positions
leave in heatmap px; maps are (N, K * maps_per_joint, H, W).
"""

from __future__ import annotations

from typing import Union

from msposenet.codecs.gaussian import GaussianCodec
from msposenet.codecs.offset import OffsetCodec

Codec = Union[GaussianCodec, OffsetCodec]

__all__ = ["Codec", "GaussianCodec", "OffsetCodec"]
