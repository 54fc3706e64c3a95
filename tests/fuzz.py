"""Seeded damage to files: what disks, downloads and hands do to them."""

from __future__ import annotations

import re

import numpy as np

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_STRANGE = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1e300", b"3", b"0.5", b"null", b"true", b'"7"', b"[]", b"{}",
    b"123456789012345678901234567890", b"1" + b"0" * 400, b'"\\ud800"', b'"../../x"',
)  # fmt: skip


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one to three kinds of damage; the same for the same state of `rng`.

    Half of the damaged JSON stays JSON: only its numbers are exchanged, so that more than the parser is tried.
    """
    if data[:1] in (b"[", b"{") and rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            data = _swap_numbers(data, rng)
        return data
    kinds = (_flip_bits, _cut, _duplicate, _insert, _swap_numbers, _overwrite)
    for _ in range(rng.integers(1, 4)):
        data = kinds[rng.integers(len(kinds))](data, rng)
    return data


def _span(data: bytes, rng: np.random.Generator, longest: int = 64) -> tuple[int, int]:
    start = int(rng.integers(len(data) + 1))
    return start, start + int(rng.integers(1, longest))


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)) if data else ():
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.integers(len(data) + 1)]
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _duplicate(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng, longest=400)
    return data[:end] + data[start:]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(min(end, len(data)) - start) + data[end:]


def _swap_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """One number replaced by another of the data, or by one that no file should hold; text only."""
    numbers = list(_NUMBER.finditer(data)) if data[:1] in b"[{" else []
    if not numbers:
        return _flip_bits(data, rng)
    place, other = (numbers[index] for index in rng.integers(len(numbers), size=2))
    value = other[0] if rng.random() < 0.3 else _STRANGE[rng.integers(len(_STRANGE))]
    return data[: place.start()] + value + data[place.end() :]
