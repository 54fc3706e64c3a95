"""The skeleton that a COCO category describes: a built-in one where the names say so, else one built from the names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from msposenet.data.formats.fields import listed, shown
from msposenet.data.records import Tally
from msposenet.errors import ConfigError, DataError
from msposenet.skeletons import SKELETONS, UNION_21, Skeleton, canonical

DEFAULT_SIGMA = 0.05

# Ways to write a side. The rest of the name, separator included, must be the same on both sides. The first four have a
# separator or a word and mean a side even alone; the others only where the partner exists.
_CERTAIN = (
    re.compile(r"(?P<side>left|right)(?P<rest>[ _.-].+)", re.IGNORECASE),  # left_eye, Left Eye
    re.compile(r"(?P<rest>.+[ _.-])(?P<side>left|right)", re.IGNORECASE),  # eye_left
    re.compile(r"(?P<side>[lr])(?P<rest>[ _.-].+)", re.IGNORECASE),  # l_eye
    re.compile(r"(?P<rest>.+[ _.-])(?P<side>[lr])", re.IGNORECASE),  # eye_l
)
_POSSIBLE = (
    re.compile(r"(?P<side>left|right)(?P<rest>[^ _.-].*)", re.IGNORECASE),  # leftEye
    re.compile(r"(?P<rest>.*[^ _.-])(?P<side>left|right)", re.IGNORECASE),  # eyeLeft
    re.compile(r"(?P<side>[LR])(?P<rest>[A-Z].*)"),  # LEye, LEYE
    re.compile(r"(?P<rest>.*[a-z0-9])(?P<side>[LR])"),  # eyeL
)


def category_skeleton(
    category: Mapping, file: str, wanted: Skeleton | None, aliases: Mapping[str, str]
) -> tuple[Skeleton, dict[str, Tally]]:
    """Skeleton of a category and the notes for the report.

    Names like those of `wanted` or of a built-in skeleton give that skeleton (case and separators aside, after renaming
    by `aliases`), no names at all `wanted`, others a skeleton of their own. Raises DataError when the names are missing
    and nothing is `wanted`, or contradict themselves.
    """
    names = _joint_names(category, file)
    if names is None:
        if wanted is None:
            raise DataError(
                f"{file}: category {shown(category['name'])} has no 'keypoints', the list of joint names; is it a file "
                "of boxes only? Give one of keypoints (person_keypoints_*.json)"
            )
        return wanted, {"the file names no joints, taken in this order": Tally.of(wanted.joints)}
    spelt = tuple(aliases.get(name, name) for name in map(canonical, names))
    if wanted is not None and spelt == tuple(map(canonical, wanted.joints)):
        return wanted, {}
    for skeleton in SKELETONS.values():
        if spelt == skeleton.joints:
            return skeleton, {}
    return _built(category, names, file)


def _joint_names(category: Mapping, file: str) -> tuple[str, ...] | None:
    names = category.get("keypoints")
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{file}: the category's 'keypoints' is {shown(names)}; a list of joint names is wanted")
    return tuple(names)


def _built(category: Mapping, names: tuple[str, ...], file: str) -> tuple[Skeleton, dict[str, Tally]]:
    notes = {}
    known = dict(zip(UNION_21.joints, UNION_21.sigmas))
    assumed = [name for name in names if canonical(name) not in known]
    if assumed:
        notes[f"no official OKS sigma, {DEFAULT_SIGMA} assumed"] = Tally.of(assumed)
    pairs = flip_pairs(names, file)
    if pairs:
        notes["flip pairs, read from the names"] = Tally.of(f"{left} - {right}" for left, right in pairs)
    else:
        notes["no left and right in the joint names: a mirrored picture keeps every joint's name"] = Tally.of(names)
    limbs, odd = _limbs(category.get("skeleton"), names)
    if odd:
        notes["'skeleton' has entries that are no pair of joint numbers from 1: no limbs"] = Tally.of(map(shown, odd))
    try:
        skeleton = Skeleton(
            name=f"{category['name']}{len(names)}",
            joints=names,
            flip_pairs=pairs,
            sigmas=tuple(known.get(canonical(name), DEFAULT_SIGMA) for name in names),
            limbs=() if odd else limbs,
            upper=tuple(name for name in names if canonical(name) in UNION_21.upper),
        )
    except ConfigError as error:
        raise DataError(f"{file}: category {shown(category['name'])}: {error}") from None
    return skeleton, notes


def flip_pairs(names: tuple[str, ...], file: str) -> tuple[tuple[str, str], ...]:
    """(left, right) joints by their names; DataError when a side has no partner or more than one."""
    forms = defaultdict(lambda: {"l": [], "r": []})
    sided = set()
    for name in names:
        for number, pattern in enumerate(_CERTAIN + _POSSIBLE):
            match = pattern.fullmatch(name)
            if match:
                forms[number, match["rest"].lower()][match["side"][0].lower()].append(name)
                if number < len(_CERTAIN):
                    sided.add(name)
    pairs = dict.fromkeys((left, right) for form in forms.values() for left in form["l"] for right in form["r"])
    paired = [name for pair in pairs for name in pair]
    twice = sorted({name for name in paired if paired.count(name) > 1})
    if twice:
        raise DataError(
            f"{file}: the mirror partner of joints {listed(twice)} is ambiguous; give a skeleton, or rename"
        )
    alone = sorted(sided - set(paired))
    if alone:
        raise DataError(f"{file}: joints {listed(alone)} name a side but have no partner; give a skeleton, or rename")
    return tuple(pairs)


def _limbs(entries: object, names: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], list]:
    """Name pairs of COCO's 1-based `skeleton`, and the entries that are none (CrowdPose carries COCO's limbs)."""
    limbs, odd = [], []
    for entry in entries if isinstance(entries, list) else []:
        whole = isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)
        if whole and all(1 <= number <= len(names) for number in entry):
            limbs.append((names[entry[0] - 1], names[entry[1] - 1]))
        else:
            odd.append(entry)
    return tuple(limbs), odd
