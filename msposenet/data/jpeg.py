"""The marker segments of a JPEG file (ITU-T T.81, annex B), read to tell a complete file from a cut one.

Decoders fill missing pixels and report success, so completeness is judged here: from the segments alone where the file
ends as it should, else by decoding twice with different bytes appended, which cannot agree while pixels are missing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

END = b"\xff\xd9"
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_LENGTHLESS = frozenset((0x01, 0xD8))
# What may stand between scans: tables, restart interval, line count, comments and application data.
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)))
# Neither stuffed zeros nor restart markers end the coded data of a scan, so both are passed over.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


class Segment(NamedTuple):
    """One marker with its contents (length field excluded, short where the file is cut); `start` is where it stands."""

    marker: int
    start: int
    contents: bytes


class Header(NamedTuple):
    """What precedes the first scan: size in px and the component numbers of the frame."""

    width: int
    height: int
    components: tuple[int, ...]
    progressive: bool


def segments(data: bytes) -> Iterator[Segment]:
    """Marker segments after the start of the image, up to the end marker or the end of the data.

    Segments are skipped by their length, so the markers of a thumbnail inside one are never taken for the picture's.
    """
    position = 2
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            return
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == _END:
            yield Segment(marker, start, b"")
            return
        if marker in _LENGTHLESS:
            continue
        end = position + max(2, int.from_bytes(data[position : position + 2], "big"))
        yield Segment(marker, start, data[position + 2 : end])
        position = end


def read_header(data: bytes) -> Header:
    """The frame header; IndexError when the data ends before the coded pixels begin."""
    header = Header(0, 0, (), False)
    for segment in segments(data):
        if segment.marker in _FRAMES and not header.components:
            header = _frame(segment)
        if segment.marker in (_SCAN, _END):
            return header
    raise IndexError("the data ends before the coded pixels begin")


def _frame(segment: Segment) -> Header:
    try:
        height, width, count = struct.unpack_from(">HHB", segment.contents, 1)
    except struct.error:
        return Header(0, 0, (), False)
    return Header(width, height, tuple(segment.contents[6 : 6 + 3 * count : 3]), segment.marker in _PROGRESSIVE)


def decode_without_end(
    data: bytes, header: Header, decode: Callable[[bytes], np.ndarray | None]
) -> tuple[np.ndarray | None, bool]:
    """Pixels of a file whose last bytes are not the end marker, and whether that marker is absent altogether.

    `decode` gives the pixels of a complete file. The pixels are None where some are missing. Bytes after the end
    marker (a second picture, an editor's trailer, padding) are harmless.
    """
    scans, stop = [], len(data)
    for segment in segments(data):
        if segment.marker == _END:
            return decode(data), False
        if segment.marker == _SCAN:
            scans.append(segment)
        elif scans and segment.marker not in _TABLES:
            stop = segment.start
            break
    if not _all_scans_begun(scans, header):
        return None, True
    body = _without_padding(data[:stop])
    # The decoder reads zeros past an end marker in one case and coded noise in the other. The noise is repeated behind
    # the restart marker that is due next: a file cut right before one would skip all noise in front of it.
    noise = np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8).tobytes()
    restarts = _RESTART.findall(body, scans[-1].start)
    due = 0xD0 + ((restarts[-1][0] + 1) % 8 if restarts else 0)
    pixels, other = decode(body + END), decode(body + noise + bytes((0xFF, due)) + noise + END)
    if pixels is None or other is None or not np.array_equal(pixels, other):
        return None, True
    return pixels, True


def _without_padding(data: bytes) -> bytes:
    """`data` without zeros behind the coded bytes and without half of an end marker."""
    coded = data.rstrip(b"\0")
    if coded.endswith(b"\xff"):
        # A 255 in the coded data is followed by one zero; without that zero it is the first half of a marker.
        return coded + b"\0" if len(coded) < len(data) else coded.rstrip(b"\xff")
    return coded


def _all_scans_begun(scans: list[Segment], header: Header) -> bool:
    """Whether every coefficient of every component has been announced down to its last bit.

    A file cut between two scans decodes to a blurred or colourless picture that no appended bytes can change.
    """
    lowest_bit = {component: np.full(64, 255) for component in header.components}
    for scan in scans:
        contents = scan.contents
        count = contents[0] if contents else 0
        if len(contents) < 4 + 2 * count:
            return False
        first, last, bits = contents[1 + 2 * count : 4 + 2 * count]
        span = slice(first, last + 1) if header.progressive else slice(0, 64)
        for component in contents[1 : 1 + 2 * count : 2]:
            if component in lowest_bit:
                lowest_bit[component][span] = bits & 0xF if header.progressive else 0
    return bool(lowest_bit) and not any(lowest.any() for lowest in lowest_bit.values())
