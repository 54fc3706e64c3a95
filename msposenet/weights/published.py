"""Every published weight file that can be imported: where it is, what its hash begins with, what it should score.

`None` says "not published": nothing here is guessed. Hashes are those that the publishers put into their file names
(mmpose, timm and the pose program's ImageNet files: the first 8 digits of the SHA-256; gluoncv: the whole SHA-1 of its
model_store.py). Sources of the figures:

| files | figures from |
|---|---|
| pose_hrnet_* | README of leoxiaobin/deep-high-resolution-net.pytorch |
| mmpose | its model zoo pages, configs/**/hrnet_coco.md and the pages beside it |
| pose_higher_hrnet_* | README of HRNet/HigherHRNet-Human-Pose-Estimation |
| mspn_2xstg_coco.pth | README of megvii-research/MSPN |
| hrnetv2_* | README of HRNet/HRNet-Image-Classification; hrnet_w32-36af842e, hrnet_w48-8ef0771d: HRNet's paper |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from msposenet.errors import ConfigError

DETECTOR_56 = "detector of 56.4 person AP"
DETECTIONS_56 = "data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
ANNOTATED = "annotated"
NO_BOXES = "none (bottom-up)"

_STANDARD = "configs/hrnet_w32_coco_256x192.yaml"
_UNBIASED = "configs/hrnet_w32_coco_256x192_udp.yaml"
_MPII_SETTINGS = (
    "data.skeleton=mpii16",
    "data.val.format=mpii",
    "data.val.annotations=data/mpii/annotations/valid.json",
    "data.val.images=data/mpii/images",
    "data.val.head_sizes=data/mpii/annotations/gt_valid.mat",
)
_HRNET = "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch"
_HIGHER = "https://github.com/HRNet/HigherHRNet-Human-Pose-Estimation"
_MSPN = "https://github.com/megvii-research/MSPN"
_CLASSIFICATION = "https://github.com/HRNet/HRNet-Image-Classification"
_MMPOSE = "https://github.com/open-mmlab/mmpose"
_MMPOSE_FILES = "https://download.openmmlab.com/mmpose"
_TIMM = "https://github.com/huggingface/pytorch-image-models"
_TIMM_FILES = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-hrnet"
_GLUONCV = "https://github.com/dmlc/gluon-cv"
_GLUONCV_FILES = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models"


@dataclass(frozen=True)
class Published:
    """One file. `None` in an optional field: not published, or it does not apply.

    model: the zoo's name of the network that the file fills (for the pose program's ImageNet files its trunk).
    skeleton, input_hw in px, convention: what its keypoints are, of which crops, in which pixel convention.
    url: from where it is fetched; None where its page hands it out through a browser only (Google Drive, OneDrive).
    sha256: of the file, or its first digits; sha1 likewise. A `url` to a .zip holds the file, whose hash it is.
    expected: figure in percent by `metric`, on `data`, with `boxes`, the mirrored pass included.
    command: what reproduces the figure, or uses the file, once it lies in the current folder.
    """

    tag: str
    file: str
    model: str
    data: str
    source: str
    command: str
    skeleton: str | None = None
    input_hw: tuple[int, int] | None = None
    convention: str | None = None
    url: str | None = None
    sha256: str | None = None
    sha1: str | None = None
    licence: str | None = None
    metric: str = "AP"
    expected: float | None = None
    boxes: str | None = None


def published() -> tuple[Published, ...]:
    """The table, in the order of the documentation."""
    return _TABLE


def find_published(tag: str) -> Published:
    """The row of a tag; ConfigError with the nearest tags when there is none."""
    for row in _TABLE:
        if row.tag == tag:
            return row
    near = difflib.get_close_matches(tag, [row.tag for row in _TABLE], n=3) or [_TABLE[0].tag]
    raise ConfigError(f"{tag!r} is neither a file nor a tag of published weights; did you mean {', '.join(near)}?")


def tags_for(model: str) -> list[str]:
    """Tags of the files of that network."""
    return [row.tag for row in _TABLE if row.model == model]


# The table


def _settings(settings: tuple[str, ...]) -> str:
    quoted = (f"'{setting}'" if "[" in setting else setting for setting in settings)
    return "".join(f" --set {setting}" for setting in quoted)


def _evaluation(config: str, settings: tuple[str, ...], file: str, boxes: str | None) -> str:
    detections = f" --boxes {DETECTIONS_56}" if boxes == DETECTOR_56 else ""
    return f"msposenet eval {config}{_settings(settings)} --weights {file}{detections}"


def _coco(
    width: int, height: int, file: str, expected: float, kind: str = "", source: str = _HRNET, **rest
) -> Published:
    """HRNet on COCO. `kind`: how its maps are made and read: "" as in HRNet's program, or _dark, _udp."""
    standard = kind != "_udp"
    settings = () if width == 32 else (f"model.name=hrnet_w{width}",)
    if kind == "_dark":
        settings += ("codec.centre=dark", "codec.decoder=dark")
    if height == 384:
        settings += ("data.input=[384,288]", "codec.sigma=3")
    if kind == "_dark" and height == 384:
        settings += ("codec.kernel=17",)  # mmpose 0.x: 11 for sigma 2, 17 for sigma 3
    family = rest.pop("family", "")
    return Published(
        tag=f"hrnet_w{width}_coco_{height}x{height * 3 // 4}{family}{kind}",
        file=file,
        model=f"hrnet_w{width}",
        data="COCO val2017",
        source=source,
        command=_evaluation(_STANDARD if standard else _UNBIASED, settings, file, DETECTOR_56),
        skeleton="coco17",
        input_hw=(height, height * 3 // 4),
        convention="standard" if standard else "unbiased",
        expected=expected,
        boxes=DETECTOR_56,
        **rest,
    )


def _mpii(width: int, file: str, expected: float | None, family: str = "", source: str = _HRNET, **rest) -> Published:
    settings = () if width == 32 else (f"model.name=hrnet_w{width}",)
    return Published(
        tag=f"hrnet_w{width}_mpii_256x256{family}",
        file=file,
        model=f"hrnet_w{width}",
        data="MPII val",
        source=source,
        command=_evaluation(_STANDARD, (*settings, "data.input=[256,256]", *_MPII_SETTINGS), file, ANNOTATED),
        skeleton="mpii16",
        input_hw=(256, 256),
        convention="standard",
        metric="PCKh@0.5",
        expected=expected,
        boxes=ANNOTATED,
        **rest,
    )


def _mmpose(path: str) -> dict[str, str]:
    sha256 = path.rsplit("-", 1)[1][:8]  # name-HASH_DATE.pth, made by mmpose's tools/misc/publish_model.py
    return {"source": _MMPOSE, "url": f"{_MMPOSE_FILES}/{path}", "sha256": sha256, "licence": "Apache-2.0"}


def _mmpose_coco() -> Iterator[Published]:
    new = "v1/body_2d_keypoint/topdown_heatmap/coco/"
    for kind, family, width, height, path, expected in (
        ("", "_mmpose", 32, 256, new + "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth", 74.9),
        ("", "_mmpose", 32, 384, new + "td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth", 76.1),
        ("", "_mmpose", 48, 256, new + "td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth", 75.6),
        ("", "_mmpose", 48, 384, new + "td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth", 76.7),
        ("", "_mmpose0", 32, 256, "top_down/hrnet/hrnet_w32_coco_256x192-c78dce93_20200708.pth", 74.6),
        ("", "_mmpose0", 32, 384, "top_down/hrnet/hrnet_w32_coco_384x288-d9f0d786_20200708.pth", 76.0),
        ("", "_mmpose0", 48, 256, "top_down/hrnet/hrnet_w48_coco_256x192-b9e0b3ab_20200708.pth", 75.6),
        ("", "_mmpose0", 48, 384, "top_down/hrnet/hrnet_w48_coco_384x288-314c8528_20200708.pth", 76.7),
        ("_dark", "_mmpose", 32, 256, "top_down/hrnet/hrnet_w32_coco_256x192_dark-07f147eb_20200812.pth", 75.7),
        ("_dark", "_mmpose", 32, 384, "top_down/hrnet/hrnet_w32_coco_384x288_dark-307dafc2_20210203.pth", 76.6),
        ("_dark", "_mmpose", 48, 256, "top_down/hrnet/hrnet_w48_coco_256x192_dark-8cba3197_20200812.pth", 76.4),
        ("_dark", "_mmpose", 48, 384, "top_down/hrnet/hrnet_w48_coco_384x288_dark-e881a4b6_20210203.pth", 77.2),
        ("_udp", "_mmpose", 32, 256, new + "td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192-73ede547_20220914.pth", 76.2),
        ("_udp", "_mmpose", 32, 384, new + "td-hm_hrnet-w32_udp-8xb64-210e_coco-384x288-9a3f7c85_20220914.pth", 76.8),
        ("_udp", "_mmpose", 48, 256, new + "td-hm_hrnet-w48_udp-8xb32-210e_coco-256x192-3feaef8f_20220913.pth", 76.8),
        ("_udp", "_mmpose", 48, 384, new + "td-hm_hrnet-w48_udp-8xb32-210e_coco-384x288-70d7ab01_20220913.pth", 77.3),
    ):  # fmt: skip
        file = path.rsplit("/", 1)[-1]
        yield _coco(width, height, file, expected, kind, family=family, **_mmpose(path))


def _higher(width: int, size: int, data: str, file: str, expected: float, family: str = "", **rest) -> Published:
    crowdpose = data == "CrowdPose test"
    return Published(
        tag=f"higherhrnet_w{width}_{'crowdpose' if crowdpose else 'coco'}_{size}{family}",
        file=file,
        model=f"higherhrnet_w{width}",
        data=data,
        command=f"msposenet import {file}",
        skeleton="crowdpose14" if crowdpose else "coco17",
        input_hw=(size, size),
        expected=expected,
        boxes=NO_BOXES,
        **{"source": _HIGHER, **rest},
    )


def _imagenet(
    width: int, tag: str, file: str, source: str, *, model: str = "", error: float | None = None, **rest
) -> Published:
    name = () if width == 32 else (f"model.name=hrnet_w{width}",)
    return Published(
        tag=tag,
        file=file,
        model=model or f"hrnet_w{width}_cls",
        data="ImageNet val",
        source=source,
        command=f"msposenet train {_STANDARD}{_settings(name)} --init-from {file}",
        input_hw=(224, 224),
        metric="top-1 error",
        expected=error,
        **rest,
    )


def _all_imagenet() -> Iterator[Published]:
    for width, sha256, error in ((32, "36af842e", 22.7), (48, "8ef0771d", 22.1)):
        file = f"hrnet_w{width}-{sha256}.pth"
        url = f"{_MMPOSE_FILES}/pretrain_models/{file}"
        rest = {"model": f"hrnet_w{width}", "sha256": sha256, "url": url, "licence": "MIT", "error": error}
        yield _imagenet(width, f"hrnet_w{width}_imagenet", file, _HRNET, **rest)
    rows = (
        (18, 23.2, "8cb57bb9", "9c946e56229ae6d1e4ec482c3be63ae2ee33d654"),
        (30, 21.8, "8d7f8dab", "2d8eb90b4a3dc8a4fc8d95910e83de425f002c74"),
        (32, 21.5, "90d8c5fb", "d1d41a36de3d1eca7b595973779268bc3f828f5b"),
        (40, 21.1, "7cd397a4", "f8b0a2f9e2db56d23c594847b7f913db9e56cc57"),
        (44, 21.1, "c9ac8c18", "b36ab13a611bfd196c46dc9cdda918b63789722d"),
        (48, 20.7, "abd2e6ab", "be50e56dea846e87343b09b4ba9687b98bd47d0c"),
        (64, 20.5, "b47cc881", "76f1b7077179f21c4147ff77f9e0999db879d7ec"),
    )
    for width, error, _, _ in rows:
        file = f"hrnetv2_w{width}_imagenet_pretrained.pth"
        yield _imagenet(width, f"hrnetv2_w{width}_imagenet", file, _CLASSIFICATION, error=error, licence="MIT")
    for width, error, sha256, _ in rows:  # the files of the row above, handed out again by timm under a hash
        file = f"hrnetv2_w{width}-{sha256}.pth"
        rest = {"sha256": sha256, "url": f"{_TIMM_FILES}/{file}", "licence": "MIT", "error": error}
        yield _imagenet(width, f"hrnetv2_w{width}_imagenet_timm", file, _TIMM, **rest)
    for width, _, _, sha1 in rows:
        stem = f"hrnet_w{width}_cls-{sha1[:8]}"
        rest = {"sha1": sha1, "url": f"{_GLUONCV_FILES}/{stem}.zip", "licence": "Apache-2.0"}
        yield _imagenet(width, f"hrnet_w{width}_imagenet_gluoncv", f"{stem}.params", _GLUONCV, **rest)


_TABLE = (
    _coco(32, 256, "pose_hrnet_w32_256x192.pth", 74.4, licence="MIT"),
    _coco(32, 384, "pose_hrnet_w32_384x288.pth", 75.8, licence="MIT"),
    _coco(48, 256, "pose_hrnet_w48_256x192.pth", 75.1, licence="MIT"),
    _coco(48, 384, "pose_hrnet_w48_384x288.pth", 76.3, licence="MIT"),
    _mpii(32, "pose_hrnet_w32_256x256.pth", 90.3, licence="MIT"),
    _mpii(48, "pose_hrnet_w48_256x256.pth", None, licence="MIT"),
    *_mmpose_coco(),
    _mpii(
        32, "hrnet_w32_mpii_256x256-6c4f923f_20200812.pth", 90.0, "_mmpose",
        **_mmpose("top_down/hrnet/hrnet_w32_mpii_256x256-6c4f923f_20200812.pth"),
    ),
    _mpii(
        48, "hrnet_w48_mpii_256x256-92cab7bd_20200812.pth", 90.1, "_mmpose",
        **_mmpose("top_down/hrnet/hrnet_w48_mpii_256x256-92cab7bd_20200812.pth"),
    ),
    _higher(32, 512, "COCO val2017", "pose_higher_hrnet_w32_512.pth", 67.1),
    _higher(32, 640, "COCO val2017", "pose_higher_hrnet_w32_640.pth", 68.5),
    _higher(48, 640, "COCO val2017", "pose_higher_hrnet_w48_640.pth", 69.9),
    _higher(
        32, 512, "COCO val2017", "higher_hrnet32_coco_512x512-8ae85183_20200713.pth", 67.7, "_mmpose",
        **_mmpose("bottom_up/higher_hrnet32_coco_512x512-8ae85183_20200713.pth"),
    ),
    _higher(
        32, 640, "COCO val2017", "higher_hrnet32_coco_640x640-a22fe938_20200712.pth", 68.6, "_mmpose",
        **_mmpose("bottom_up/higher_hrnet32_coco_640x640-a22fe938_20200712.pth"),
    ),
    _higher(
        48, 512, "COCO val2017", "higher_hrnet48_coco_512x512-60fedcbc_20200712.pth", 68.6, "_mmpose",
        **_mmpose("bottom_up/higher_hrnet48_coco_512x512-60fedcbc_20200712.pth"),
    ),
    _higher(
        32, 512, "CrowdPose test", "higher_hrnet32_crowdpose_512x512-1aa4a132_20201017.pth", 65.5, "_mmpose",
        **_mmpose("bottom_up/higher_hrnet32_crowdpose_512x512-1aa4a132_20201017.pth"),
    ),
    Published(
        tag="mspn_r50x2_coco_256x192", file="mspn_2xstg_coco.pth", model="mspn_r50x2", data="COCO val", source=_MSPN,
        command="msposenet import mspn_2xstg_coco.pth", skeleton="coco17", input_hw=(256, 192), expected=74.5,
        boxes="its own detections",
    ),
    *_all_imagenet(),
)  # fmt: skip
