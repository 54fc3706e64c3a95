"""One keypoint set out of another: joints by name, midpoints, and back again.

A mapping says for each joint that is wanted which joint of the set it is, of which two it is the midpoint, or that the
set has none. It must not tell left from right other than by name: unify and mirror can then be exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from msposenet.data.records import Records
from msposenet.errors import ConfigError
from msposenet.skeletons import Skeleton, canonical


@dataclass(frozen=True)
class JointMap:
    """Where each of the K joints of `target` is found among the J of `source`.

    `pairs` (K, 2): the joint's place in the source twice, the two whose midpoint it is, or -1 where there is none.
    """

    source: Skeleton
    target: Skeleton
    pairs: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Which (K,) of the target's joints the source has."""
        return self.pairs[:, 0] >= 0

    @property
    def missing(self) -> list[str]:
        """Joints of the source that no joint of the target is."""
        used = set(self.pairs[self.found].ravel().tolist())
        return [joint for place, joint in enumerate(self.source.joints) if place not in used]

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints (N, J, 3) of the source -> (N, K, 3); a midpoint is labelled where both its ends are."""
        ends = keypoints[:, self.pairs]  # (N, K, 2, 3)
        unified = ends.mean(axis=2)
        unified[..., 2] = np.where(self.found, ends[..., 2].min(axis=2), 0)
        unified[..., :2] *= unified[..., 2:] > 0
        return unified.astype(keypoints.dtype)

    def back(self, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictions (N, K, 3) of the target's joints -> (N, J, 3) of the source's, and which (J,) there are.

        A joint that the target has only as the end of a midpoint cannot be told from it: it is not there, and 0.
        """
        single = self.found & (self.pairs[:, 0] == self.pairs[:, 1])
        native = np.zeros((len(keypoints), self.source.num_joints, 3), keypoints.dtype)
        native[:, self.pairs[single, 0]] = keypoints[:, single]
        there = np.zeros(self.source.num_joints, dtype=bool)
        there[self.pairs[single, 0]] = True
        return native, there


def joint_map(
    source: Skeleton, target: Skeleton, joints: Mapping[str, str | tuple[str, str] | None], title: str
) -> JointMap:
    """The map by name, changed by `joints`: wanted joint -> the source's, two for their midpoint, None for no joint.

    Raises ConfigError, naming the set `title`, for unknown names, for sides that do not mirror, for no joint in common.
    """
    own = {canonical(joint): joint for joint in source.joints}  # however the set writes its names
    wanted: dict[str, tuple[str, str] | None] = {
        joint: (own[canonical(joint)],) * 2 if canonical(joint) in own else None for joint in target.joints
    }
    for joint, names in joints.items():
        if joint not in wanted:
            raise ConfigError(
                f"{title}: joints names {joint!r}, which skeleton {target.name!r} has not; it has "
                f"{', '.join(target.joints)}"
            )
        ends = (names, names) if isinstance(names, str) else names
        for end in ends or ():
            if end not in source.joints:
                raise ConfigError(
                    f"{title}: joints takes {joint!r} from {end!r}, which the set has not; it has "
                    f"{', '.join(source.joints)}"
                )
        wanted[joint] = ends
    pairs = [[source.index(end) for end in ends] if ends else [-1, -1] for ends in wanted.values()]
    found = JointMap(source, target, np.array(pairs, dtype=np.int64))
    if not found.found.any():
        raise ConfigError(
            f"{title}: none of its joints ({', '.join(source.joints)}) is one of skeleton {target.name!r} "
            f"({', '.join(target.joints)}); name the pairs under `joints`, or choose another data.skeleton"
        )
    _check_sides(found, title)
    return found


def _check_sides(found: JointMap, title: str) -> None:
    """Raise where the mirror image of a joint is taken from elsewhere than the joint's source's mirror image.

    A joint of the set that has no mirror partner of its own, because its name tells no side, has the one it is given.
    """
    mirror = np.append(found.source.flip_index, -1)  # -1, no joint, stays -1
    for place, other in enumerate(found.target.flip_index):
        (a, b), (c, d) = found.pairs[place], found.pairs[other]
        if place != other and a == b != c == d and a >= 0 and mirror[a] == a and mirror[c] == c:
            mirror[a] = c
            mirror[c] = a
    for place, other in enumerate(found.target.flip_index):
        if set(mirror[found.pairs[place]]) != set(found.pairs[other]):
            names = [found.target.joints[place], found.target.joints[other]]
            taken = [_names(found, at) for at in (place, other)]
            raise ConfigError(
                f"{title}: {names[0]!r} is taken from {taken[0]} but its mirror image {names[1]!r} from {taken[1]}; a "
                "mirrored picture would teach the wrong side. Map both under `joints`"
            )


def _names(found: JointMap, place: int) -> str:
    ends = dict.fromkeys(found.source.joints[end] for end in found.pairs[place] if end >= 0)
    return " and ".join(map(repr, ends)) or "no joint"


def unify(records: Records, found: JointMap) -> Records:
    """`records` with the joints of the map's target."""
    return replace(
        records,
        skeleton=found.target,
        keypoints=found.keypoints(records.keypoints),
        origins=(),  # their weights belonged to the joints there were
        origin_index=None,
    )
