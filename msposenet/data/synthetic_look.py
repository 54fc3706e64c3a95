"""Colours and cut of a synthetic person's clothes and hair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """Colours (RGB) and cut of one person's clothes and hair."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    pupil: Colour = (25, 20, 20)
    long_sleeves: bool = True
    long_trousers: bool = True
    stripes: Optional[Colour] = None
    long_hair: bool = False
    hairline: float = 68.0  # degrees from the middle of the face to the hair; 180 for a bald head


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter."""
    return tuple(int(min(255, channel * factor)) for channel in colour)


def random_look(rng: np.random.Generator) -> Look:
    """Random clothes, skin and hair."""
    skin_tones = ((244, 208, 180), (228, 184, 143), (198, 146, 108), (160, 108, 74), (112, 74, 52))
    hair_tones = ((28, 22, 20), (62, 42, 28), (110, 74, 40), (196, 160, 90), (150, 70, 36), (165, 165, 165))
    skin = np.array(skin_tones[rng.integers(len(skin_tones))]) * rng.uniform(0.9, 1.08)
    hair = np.array(hair_tones[rng.integers(len(hair_tones))]) * rng.uniform(0.8, 1.2)
    if np.abs(hair - skin).sum() < 110:  # no face could be told from the hair around it
        hair = np.array(hair_tones[0])
    style = rng.random(4)
    shirt, trousers, shoes = (_random_cloth(rng, low) for low in (110, 100, 30))
    return Look(
        skin=_colour(skin),
        hair=_colour(hair),
        shirt=shirt,
        trousers=trousers,
        shoes=shoes,
        long_sleeves=bool(style[0] < 0.6),
        long_trousers=bool(style[1] < 0.65),
        stripes=_random_cloth(rng, 60) if style[2] < 0.25 else None,
        long_hair=bool(style[3] < 0.35),
        hairline=180.0 if style[3] > 0.93 else rng.uniform(58, 76),
    )


def _colour(values: np.ndarray) -> Colour:
    return tuple(int(value) for value in np.clip(values, 0, 255))


def _random_cloth(rng: np.random.Generator, low: float) -> Colour:
    """A colour of any hue whose brightest channel is at least `low`: on black cloth no shade could be seen."""
    hue = rng.random(3)
    saturation, value = rng.random(), rng.uniform(low, 245)
    hue = (hue - hue.min()) / max(hue.max() - hue.min(), 1e-6)
    return _colour(value * (1 - saturation * (1 - hue)))
