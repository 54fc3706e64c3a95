"""Heatmaps to keypoints in image px, as every program ends with: array operations on a batch, loops, the graph.

The loops are the published programs'; of the decoders that these do not have only our own form is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from msposenet import geometry
from msposenet.benchmarks.peers.plain_decoding import plain_dark, plain_quarter, plain_to_image
from msposenet.codecs import Codec, GaussianCodec, OffsetCodec
from msposenet.errors import ResultError
from msposenet.geometry import Convention

OURS, LOOPS, GRAPH = "msposenet", "plain loops", "msposenet, in the graph"
CASES = ("quarter", "dark", "argmax", "udp", "offset peak", "offset vote")
_KERNEL = 11
_STRIDE = 4
_APART = 1e-2  # image px, for crops of a few hundred px; in float32 the Newton step of two programs differs by less


def contenders(
    batch: int, joints: int, height: int, width: int, seed: int
) -> dict[str, dict[str, Callable[[], np.ndarray]]]:
    """For each of CASES, by name: what makes keypoints (N, K, 2) in image px of the same maps (N, K, H, W).

    OURS is everywhere, LOOPS where there is a published program, GRAPH where there is a graph form: it begins with maps
    on the device (the CPU) and ends with an array of the host.
    """
    rng = np.random.default_rng(seed)
    input_wh, heatmap_wh = (width * _STRIDE, height * _STRIDE), (width, height)
    codecs = _codecs(input_wh, heatmap_wh)
    xy_crop = rng.uniform((0, 0), input_wh, (batch, joints, 2))
    centers, heights = rng.uniform(100, 500, (batch, 2)), rng.uniform(100, 400, batch)
    sizes = np.stack([heights * width / height, heights], axis=1)
    maps_of = {maps: _maps(rng, codecs[maps], xy_crop) for maps in ("quarter", "offset peak")}
    loops = {"quarter": plain_quarter, "dark": lambda maps: plain_dark(maps, _KERNEL)}

    cases: dict[str, dict[str, Callable[[], np.ndarray]]] = {}
    for case, codec in codecs.items():
        maps = maps_of["offset peak" if isinstance(codec, OffsetCodec) else "quarter"]

        def to_image(xy_heatmap: np.ndarray, convention: Convention = codec.convention) -> np.ndarray:
            return geometry.heatmap_to_image(xy_heatmap, centers, sizes, heatmap_wh, convention)

        cases[case] = {OURS: _ours(codec, maps, to_image)}
        if case in loops:
            cases[case][LOOPS] = _loops(loops[case], maps, centers, sizes, heatmap_wh)
        if case != "offset vote":
            cases[case][GRAPH] = _graph(codec, maps, joints, to_image)
    return cases


def check_alike(case: str, found: Mapping[str, np.ndarray]) -> float:
    """The largest difference (image px) of the contenders' keypoints from OURS; ResultError beyond 0.01 px."""
    largest = 0.0
    for name, xy_image in found.items():
        apart = np.abs(xy_image - found[OURS]).max(initial=0)
        if not apart <= _APART:
            raise ResultError(
                f"{case}: {name} puts a joint {apart:.3g} px from where {OURS} does; their speeds are not comparable"
            )
        largest = max(largest, float(apart))
    return largest


def _codecs(input_wh: tuple[int, int], heatmap_wh: tuple[int, int]) -> dict[str, Codec]:
    standard = (input_wh, heatmap_wh, Convention.STANDARD)
    unbiased = (input_wh, heatmap_wh, Convention.UNBIASED)
    codecs = (
        GaussianCodec(*standard),
        GaussianCodec(*standard, decoder="dark", kernel=_KERNEL),
        GaussianCodec(*standard, decoder="argmax"),
        GaussianCodec(*unbiased, decoder="udp", kernel=_KERNEL),
        OffsetCodec(*unbiased),
        OffsetCodec(*unbiased, decoder="vote"),
    )
    return dict(zip(CASES, codecs))


def _maps(rng: np.random.Generator, codec: Codec, xy_crop: np.ndarray) -> np.ndarray:
    """Maps as a network gives them: every joint's own height, and noise between the joints."""
    count, joints = xy_crop.shape[:2]
    maps, _ = codec.encode(xy_crop, np.ones((count, joints)))
    heights = np.repeat(rng.uniform(0.3, 1, (count, joints)), codec.maps_per_joint, axis=1)
    return (maps * heights[..., None, None] + rng.normal(0, 0.01, maps.shape)).astype(np.float32)


def _ours(codec: Codec, maps: np.ndarray, to_image: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: to_image(codec.decode(maps)[0])


def _loops(
    decode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    maps: np.ndarray,
    centers: np.ndarray,
    sizes: np.ndarray,
    heatmap_wh: tuple[int, int],
) -> Callable[[], np.ndarray]:
    return lambda: plain_to_image(decode(maps)[0], centers, sizes, heatmap_wh)


def _graph(
    codec: Codec, maps: np.ndarray, joints: int, to_image: Callable[[np.ndarray], np.ndarray]
) -> Callable[[], np.ndarray]:
    from msposenet.runtime import mx

    data = mx.sym.var("data", dtype="float32")
    block = mx.gluon.SymbolBlock(codec.decode_in_graph(mx.sym, data, joints), [data])
    block.initialize()
    block.hybridize(static_alloc=True, static_shape=True)
    device_maps = mx.nd.array(maps)
    return lambda: to_image(block(device_maps).asnumpy()[..., :2])
