"""Named keypoint sets: joint names, mirror pairs, OKS sigmas, limbs and the upper body.

Joints are addressed by name everywhere; this is the only module in which their order matters. Orders and limbs:
COCO, MPII, AI Challenger, CrowdPose, PoseTrack and LSP releases. Sigmas: COCO and CrowdPose official evaluators,
AI Challenger's evaluator (its deltas are two sigmas, as COCO's k is). Sets without official sigmas take
COCO's for the joints of the same name and 0.079 (COCO's shoulder) for head and neck.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from msposenet.errors import ConfigError


@dataclass(frozen=True)
class Skeleton:
    """A keypoint set of K joints.

    `flip_pairs` are the (left, right) joints that a mirror exchanges; `sigmas` the K per-joint OKS constants (sigma,
    not k = 2 sigma); `limbs` the name pairs to draw; `upper` the joints of the upper body, the rest is the lower body
    (half-body crops). Raises ConfigError on a table that contradicts itself.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[str, str], ...] = ()
    upper: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_joints()
        self._check_flip_pairs()

    def _check_joints(self) -> None:
        if not self.joints:
            raise ConfigError(f"skeleton {self.name!r} has no joints; name at least one")
        repeated = sorted({joint for joint in self.joints if self.joints.count(joint) > 1})
        if repeated:
            raise ConfigError(f"skeleton {self.name!r} names {repeated} twice; joint names must differ")
        if len(self.sigmas) != len(self.joints):
            raise ConfigError(
                f"skeleton {self.name!r} has {len(self.joints)} joints but {len(self.sigmas)} sigmas; give one a joint"
            )
        if not all(np.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise ConfigError(f"skeleton {self.name!r}: every sigma must be positive, found {list(self.sigmas)}")
        named = [("limbs", [joint for limb in self.limbs for joint in limb]), ("upper", self.upper)]
        for field, joints in named:
            unknown = sorted(set(joints) - set(self.joints))
            if unknown:
                raise ConfigError(f"skeleton {self.name!r}: {field} names unknown joints {unknown}")

    def _check_flip_pairs(self) -> None:
        seen: set[str] = set()
        for pair in self.flip_pairs:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ConfigError(f"skeleton {self.name!r}: flip pair {pair} must name two different joints")
            for joint in pair:
                if joint not in self.joints:
                    raise ConfigError(f"skeleton {self.name!r}: flip pair {pair} names the unknown joint {joint!r}")
                if joint in seen:
                    raise ConfigError(f"skeleton {self.name!r}: joint {joint!r} is in two flip pairs; keep one")
                seen.add(joint)
        sided = {joint for joint in self.joints if joint.startswith(("left_", "right_"))}
        # A sided joint without its partner is the silent way to lose AP: the mirror would move it to the wrong side.
        unpaired = sorted(sided - seen)
        if unpaired:
            raise ConfigError(f"skeleton {self.name!r}: {unpaired} have a side but no flip pair; add the pair")
        for left, right in self.flip_pairs:
            sides = (left.split("_")[0], right.split("_")[0])
            if set(sides) == {"left", "right"} and left.split("_", 1)[1] != right.split("_", 1)[1]:
                raise ConfigError(f"skeleton {self.name!r}: flip pair ({left}, {right}) joins different body parts")
            if sides in (("left", "left"), ("right", "right")):
                raise ConfigError(f"skeleton {self.name!r}: flip pair ({left}, {right}) joins joints of one side")

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of the joint `joint`; ConfigError when the skeleton has none of that name."""
        try:
            return self.joints.index(joint)
        except ValueError:
            raise ConfigError(
                f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}"
            ) from None

    @cached_property
    def flip_index(self) -> np.ndarray:
        """Permutation (K,) that exchanges left and right: `mirrored = joints[flip_index]`."""
        order = np.arange(self.num_joints)
        for left, right in self.flip_pairs:
            order[[self.index(left), self.index(right)]] = self.index(right), self.index(left)
        order.setflags(write=False)
        return order

    @cached_property
    def sigma_array(self) -> np.ndarray:
        """OKS sigmas (K,) float64."""
        return np.asarray(self.sigmas, dtype=np.float64)

    @cached_property
    def upper_mask(self) -> np.ndarray:
        """True (K,) for joints of the upper body."""
        return np.array([joint in self.upper for joint in self.joints], dtype=bool)

    @cached_property
    def limb_index(self) -> np.ndarray:
        """Joint positions (L, 2) of the limbs."""
        return np.array([[self.index(a), self.index(b)] for a, b in self.limbs], dtype=np.int64).reshape(-1, 2)


def _sides(*parts: str) -> tuple[str, ...]:
    """Left and right joint of each part: _sides("hip") -> left_hip, right_hip."""
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


def _pairs(*parts: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"left_{part}", f"right_{part}") for part in parts)


_SIGMA = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "head_top": 0.079, "neck": 0.079, "pelvis": 0.107, "thorax": 0.079,
}  # fmt: skip


def _coco_sigmas(joints: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(_SIGMA[joint.replace("left_", "").replace("right_", "")] for joint in joints)


_LIMB_PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_BODY_LIMBS = (
    ("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee"), ("right_knee", "right_hip"),
    ("left_hip", "right_hip"), ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
    ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
)  # fmt: skip
_FACE_LIMBS = (
    ("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"),
    ("right_eye", "right_ear"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
)  # fmt: skip

_COCO_JOINTS = ("nose", *_sides("eye", "ear", *_LIMB_PARTS))
COCO_17 = Skeleton(
    name="coco17",
    joints=_COCO_JOINTS,
    flip_pairs=_pairs("eye", "ear", *_LIMB_PARTS),
    sigmas=_coco_sigmas(_COCO_JOINTS),
    limbs=_BODY_LIMBS + _FACE_LIMBS,
    upper=_COCO_JOINTS[:11],
)

_UNION_JOINTS = (*_COCO_JOINTS, "head_top", "neck", "pelvis", "thorax")
UNION_21 = Skeleton(
    name="union21",
    joints=_UNION_JOINTS,
    flip_pairs=COCO_17.flip_pairs,
    sigmas=_coco_sigmas(_UNION_JOINTS),
    limbs=(*COCO_17.limbs, ("head_top", "neck"), ("neck", "thorax"), ("thorax", "pelvis")),
    upper=(*_COCO_JOINTS[:11], "head_top", "neck", "thorax"),
)

_LEGS = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle")
_ARMS = ("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist")
_MPII_JOINTS = (*_LEGS, "pelvis", "thorax", "neck", "head_top", *_ARMS)
MPII_16 = Skeleton(
    name="mpii16",
    joints=_MPII_JOINTS,
    flip_pairs=_pairs(*_LIMB_PARTS),
    sigmas=_coco_sigmas(_MPII_JOINTS),
    limbs=(
        ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "pelvis"), ("pelvis", "left_hip"),
        ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("pelvis", "thorax"), ("thorax", "neck"),
        ("neck", "head_top"), ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"), ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
    ),
    upper=_MPII_JOINTS[7:],
)  # fmt: skip

_AIC_JOINTS = (
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "head_top", "neck",
)  # fmt: skip
AIC_14 = Skeleton(
    name="aic14",
    joints=_AIC_JOINTS,
    flip_pairs=_pairs(*_LIMB_PARTS),
    sigmas=(
        0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642, 0.03686941, 0.01981803,
        0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
    ),
    limbs=(
        ("right_wrist", "right_elbow"), ("right_elbow", "right_shoulder"), ("right_shoulder", "neck"),
        ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
        ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "left_hip"),
        ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("head_top", "neck"),
        ("right_shoulder", "right_hip"), ("left_shoulder", "left_hip"),
    ),
    upper=_AIC_JOINTS[:6] + _AIC_JOINTS[12:],
)  # fmt: skip

_CROWDPOSE_JOINTS = (*_sides(*_LIMB_PARTS), "head_top", "neck")
CROWDPOSE_14 = Skeleton(
    name="crowdpose14",
    joints=_CROWDPOSE_JOINTS,
    flip_pairs=_pairs(*_LIMB_PARTS),
    sigmas=_coco_sigmas(_CROWDPOSE_JOINTS),
    limbs=(*_BODY_LIMBS, ("head_top", "neck"), ("right_shoulder", "neck"), ("left_shoulder", "neck")),
    upper=_CROWDPOSE_JOINTS[:6] + _CROWDPOSE_JOINTS[12:],
)

_POSETRACK18_JOINTS = ("nose", "neck", "head_top", *_sides("ear", *_LIMB_PARTS))
POSETRACK_17 = Skeleton(
    name="posetrack17",  # PoseTrack18's 17 entries; its ears are never labelled, its neck is "head_bottom"
    joints=_POSETRACK18_JOINTS,
    flip_pairs=_pairs("ear", *_LIMB_PARTS),
    sigmas=_coco_sigmas(_POSETRACK18_JOINTS),
    limbs=(*_BODY_LIMBS, ("nose", "neck"), ("nose", "head_top"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    upper=_POSETRACK18_JOINTS[:11],
)

_POSEVAL_JOINTS = _LEGS + _ARMS + ("neck", "nose", "head_top")
POSETRACK_15 = Skeleton(
    name="posetrack15",  # PoseTrack17's release and poseval
    joints=_POSEVAL_JOINTS,
    flip_pairs=_pairs(*_LIMB_PARTS),
    sigmas=_coco_sigmas(_POSEVAL_JOINTS),
    limbs=POSETRACK_17.limbs,
    upper=_POSEVAL_JOINTS[6:],
)

_LSP_JOINTS = _LEGS + _ARMS + ("neck", "head_top")
LSP_14 = Skeleton(
    name="lsp14",
    joints=_LSP_JOINTS,
    flip_pairs=_pairs(*_LIMB_PARTS),
    sigmas=_coco_sigmas(_LSP_JOINTS),
    limbs=CROWDPOSE_14.limbs,
    upper=_LSP_JOINTS[6:],
)

SKELETONS = {
    skeleton.name: skeleton
    for skeleton in (COCO_17, MPII_16, AIC_14, CROWDPOSE_14, POSETRACK_15, POSETRACK_17, LSP_14, UNION_21)
}


def canonical(joint: str) -> str:
    """A joint's name in lower case with underscores, as the built-in skeletons write it: "Left Eye" -> "left_eye"."""
    return re.sub(r"[ .\-]+", "_", joint.strip()).lower()


def get_skeleton(name: str) -> Skeleton:
    """The built-in skeleton `name`; ConfigError lists the known names."""
    try:
        return SKELETONS[name]
    except KeyError:
        raise ConfigError(f"unknown skeleton {name!r}; known: {', '.join(SKELETONS)}") from None
