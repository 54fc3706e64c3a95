"""Pictures from untrusted files: the header is checked before anything is decoded, and a cut picture is never returned.

OpenCV fills what a cut JPEG lacks with grey and reports success, and rotates by EXIF unless told not to; COCO's boxes
are in unrotated pixels. Reads JPEG, PNG, WebP and BMP; pixels equal those of `cv2.imread` (in RGB order).
"""

from __future__ import annotations

import os
import stat
import struct
import warnings
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from msposenet.data import jpeg
from msposenet.errors import ImageError

MAX_SIDE = 16384  # px
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1 << 28

OnWarning = Callable[[str, str], None]  # name of the picture, what is odd about it


class ImageWarning(UserWarning):
    """A picture that is damaged but whole."""


def read_image(path, *, honour_exif: bool = False, on_warning: OnWarning | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3) of the picture file `path`; see `decode_image`. Raises ImageError."""
    return decode_image(read_bytes(path), os.fsdecode(path), honour_exif=honour_exif, on_warning=on_warning)


def read_bytes(path) -> bytes:
    """The encoded picture in the file `path`; ImageError for what is missing, too large or no file."""
    try:
        # Without waiting for the other end, should it be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise ImageError(
                    f"{os.fsdecode(path)}: not an image: not a regular file; give the path of a picture file"
                )
            if info.st_size > MAX_FILE_BYTES:
                raise ImageError(
                    f"{os.fsdecode(path)}: {info.st_size:,} bytes, over the limit of {MAX_FILE_BYTES:,} for a picture "
                    "file; shrink it"
                )
            data = os.read(descriptor, info.st_size)
            while len(data) < info.st_size:
                more = os.read(descriptor, info.st_size - len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageError(f"{os.fsdecode(path)}: missing image; restore the file or correct the images folder") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{os.fsdecode(path)}: unreadable image ({reason}); check the path and the disk") from error


def encoded_size(data: bytes, name: str) -> tuple[str, tuple[int, int]]:
    """Kind ("JPEG", "PNG", "WebP", "BMP") and (width, height) by the header of an encoded picture; raises ImageError.

    Nothing is decoded, and nothing behind the header is looked at; the EXIF orientation is not honoured.
    """
    kind = _kind(data)
    if kind is None:
        raise ImageError(f"{name}: not an image: {_looks_like(data)}; give a JPEG, PNG, WebP or BMP picture")
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError):
        raise _truncated(name, kind, data) from None
    _check_size(width, height, name, kind)
    return kind, (width, height)


def decode_image(
    data: bytes,
    name: str,
    *,
    honour_exif: bool = False,
    on_warning: OnWarning | None = None,
    reduction: int = 1,
    kind: str | None = None,
) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an encoded picture; `name` is what errors call it, `kind` what `encoded_size` said of it.

    Grey, RGBA, CMYK and 16-bit pictures become 8-bit RGB. The EXIF orientation is ignored, as the boxes of COCO and its
    like assume, unless `honour_exif`. A picture that is damaged but complete is returned and passed to `on_warning`
    as (name, reason), so that the caller can count; without a callback it is an ImageWarning. `reduction` 2, 4 or 8
    gives sides of a half, a quarter or an eighth, rounded up. Raises ImageError for what is not an image, is
    truncated, or is larger than MAX_SIDE or MAX_PIXELS (nothing is decoded then).
    """
    kind = kind or encoded_size(data, name)[0]
    try:
        whole = kind == "JPEG" or _WHOLE[kind](data)
    except (struct.error, IndexError):
        raise _truncated(name, kind, data) from None
    if not whole:
        raise _truncated(name, kind, data)
    decode = partial(_decode, flags=_flags(honour_exif, reduction))
    if kind == "JPEG" and not data.endswith(jpeg.END):
        rgb, endless = jpeg.decode_without_end(data, jpeg.read_header(data), decode)
        if endless and rgb is None:
            raise _truncated(name, kind, data)
        if endless:
            (on_warning or _warn)(name, "JPEG without its end marker, pixels complete")
    else:
        rgb = decode(data)
    if rgb is None:
        raise ImageError(f"{name}: damaged {kind}: the decoder gives up on it; copy the file again or leave it out")
    return rgb


def _flags(honour_exif: bool, reduction: int) -> int:
    # Straight to RGB: turning the channels round afterwards costs a tenth of the decoding.
    flags = cv2.IMREAD_COLOR_RGB if reduction == 1 else _REDUCED[reduction]
    return flags if honour_exif else flags | cv2.IMREAD_IGNORE_ORIENTATION


def _warn(name: str, reason: str) -> None:
    warnings.warn(f"{name}: {reason}", ImageWarning, stacklevel=3)


_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no memory; damage gives None
        return None
    if pixels is None or flags & cv2.IMREAD_COLOR_RGB:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)  # OpenCV has no reduced decoding in this order


def _check_size(width: int, height: int, name: str, kind: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: damaged {kind}: its header says {width} x {height} px; copy the file again")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {kind} of {width} x {height} px; at most {MAX_SIDE} px a side and {MAX_PIXELS // 10**6} million "
            "pixels are read; shrink the picture or leave it out"
        )


def _truncated(name: str, kind: str, data: bytes) -> ImageError:
    return ImageError(f"{name}: truncated {kind}: pixels are missing after {len(data):,} bytes; copy the file again")


# What a file is


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    # "BM" alone would take text that starts so; the length of the second header tells them apart.
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "BMP"
    return None


_BMP_HEADERS = {struct.pack("<I", length) for length in (12, 40, 52, 56, 64, 108, 124)}
_OTHERS = (
    (b"GIF8", "a GIF"), (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"), (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"BM", "text or a cut BMP"),
)  # fmt: skip


def _looks_like(data: bytes) -> str:
    if not data:
        return "the file is empty"
    start = data[:512]
    for magic, what in _OTHERS:
        if start.startswith(magic):
            return f"the file is {what}"
    if start[4:8] == b"ftyp":
        return "the file is a HEIC, AVIF or video file"
    if not start.strip(b"\0"):
        return "the file holds zeros"
    if start.lstrip().startswith(b"<"):
        return "the file is HTML or XML, perhaps the error page of a download"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "the file is text"
    return f"the file begins with the bytes {start[:8].hex(' ')}"


# Width and height from the header; struct.error or IndexError when the data ends too early


def _png_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from(">II", data, 16)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if data[14] == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # negative: rows from the top down


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_size(data: bytes) -> tuple[int, int]:
    header = jpeg.read_header(data)
    return header.width, header.height


_SIZES = {"JPEG": _jpeg_size, "PNG": _png_size, "WebP": _webp_size, "BMP": _bmp_size}


# Whether the file goes on to its end. OpenCV refuses cut files of these kinds by itself; asked first, the error can say
# so, and its decoders see fewer damaged files.


def _png_is_whole(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if name == b"IEND":
            return position <= len(data)
    return False


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= 8 + struct.unpack_from("<I", data, 4)[0]


def _bmp_is_whole(data: bytes) -> bool:
    start = struct.unpack_from("<I", data, 10)[0]
    bits, compression = (
        (*struct.unpack_from("<H", data, 24), 0) if data[14] == 12 else struct.unpack_from("<HI", data, 28)
    )
    if compression in _BMP_RUN_LENGTHS:
        return len(data) > start
    width, height = _bmp_size(data)
    return len(data) >= start + (width * bits + 31) // 32 * 4 * height


_BMP_RUN_LENGTHS = (1, 2)
_WHOLE = {"PNG": _png_is_whole, "WebP": _webp_is_whole, "BMP": _bmp_is_whole}
