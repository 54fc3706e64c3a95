"""Pictures: identical to OpenCV's when sound, a typed error when not, never silently grey."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from fuzz import mutate
from PIL import Image
from shared_data import load_golden, sample

from msposenet.data.images import MAX_FILE_BYTES, ImageWarning, decode_image, read_image
from msposenet.errors import ImageError, PoseError

END = b"\xff\xd9"


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """RGB with structure in every block, so that missing data shows."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Pixels of a picture that must be read without a warning."""
    return decode_image(data, "picture", on_warning=lambda name, reason: pytest.fail(f"{name}: {reason}"))


JPEGS = {
    "baseline": {"quality": 90},
    "444": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 90, "progressive": True},
    "optimised": {"quality": 80, "optimize": True},
    "restarts": {"quality": 85, "restart_marker_blocks": 4},
    "restart rows": {"quality": 85, "restart_marker_rows": 1},
}


@pytest.fixture(params=JPEGS)
def jpeg_file(request) -> bytes:
    return encoded(picture(), "JPEG", **JPEGS[request.param])


# Sound pictures


def test_golden_pixels_of_the_reference_programs():
    expected = load_golden("end_to_end/hrnet_w32_coco_detections.npz")
    folder = sample("coco_sample/images")
    for name, crc in zip(expected["image_file"], expected["image_bgr_crc32"]):
        rgb = read_image(folder / Path(str(name)).name)
        assert zlib.crc32(np.ascontiguousarray(rgb[..., ::-1]).tobytes()) == crc, name


def test_pixels_equal_opencv_imread():
    paths = sorted(sample("coco/images/val2017").glob("*.jpg"))[:12]
    assert len(paths) == 12
    for path in paths:
        rgb = read_image(path)
        np.testing.assert_array_equal(rgb, cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
        assert rgb.flags.c_contiguous
        assert rgb.flags.writeable


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})])
def test_lossless_kinds_come_back_exactly(kind, options):
    for shape in ((96, 128), (16, 8), (40, 24)):
        image = picture(*shape)
        np.testing.assert_array_equal(decoded(encoded(image, kind, **options)), image)


def as_cmyk(image):
    return Image.fromarray(image).convert("CMYK")


def as_palette(image):
    return Image.fromarray(image).quantize(256)


def as_16_bit(image):
    return cv2.imencode(".png", image[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def as_deep_grey(image):
    return cv2.imencode(".png", image[..., 0].astype(np.uint16) * 257)[1].tobytes()


@pytest.mark.parametrize(
    "name, encode, expected",
    [
        ("grey JPEG", lambda i: encoded(i[..., 0], "JPEG", quality=100), lambda i: i[..., :1].repeat(3, axis=2)),
        ("grey PNG", lambda i: encoded(i[..., 0], "PNG"), lambda i: i[..., :1].repeat(3, axis=2)),
        ("RGBA PNG", lambda i: encoded(np.dstack([i, i[..., 0]]), "PNG"), lambda i: i),
        ("grey and alpha PNG", lambda i: encoded(i[..., :2], "PNG"), lambda i: i[..., :1].repeat(3, axis=2)),
        ("16-bit PNG", as_16_bit, lambda i: i),
        ("16-bit grey PNG", as_deep_grey, lambda i: i[..., :1].repeat(3, axis=2)),
        ("CMYK JPEG", lambda i: encoded(as_cmyk(i), "JPEG", quality=100), lambda i: i),
        ("RGBA WebP", lambda i: encoded(np.dstack([i, i[..., 0] | 1]), "WEBP", lossless=True), lambda i: i),
        ("lossy WebP", lambda i: encoded(i, "WEBP", quality=100), lambda i: i),
        ("palette PNG", lambda i: encoded(as_palette(i), "PNG"), lambda i: np.asarray(as_palette(i).convert("RGB"))),
        ("8-bit BMP", lambda i: encoded(i[..., 0], "BMP"), lambda i: i[..., :1].repeat(3, axis=2)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(name, encode, expected):
    image = picture()
    rgb = decoded(encode(image))
    assert rgb.shape == image.shape and rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - expected(image)).mean() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_ignored_unless_asked_for(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    data = encoded(picture(), kind, exif=exif)
    plain = decoded(encoded(picture(), kind))
    np.testing.assert_array_equal(decoded(data), plain)
    np.testing.assert_array_equal(decode_image(data, "picture", honour_exif=True), np.rot90(plain, -1))


# Cut pictures


def test_cut_jpeg_is_truncated_at_every_share(jpeg_file):
    for percent in range(5, 100):
        with pytest.raises(ImageError, match=r"cut\.jpg: truncated JPEG"):
            decode_image(jpeg_file[: len(jpeg_file) * percent // 100], "cut.jpg")


def test_cut_real_jpegs_are_truncated():
    for path in sorted(sample("coco_sample/images").glob("*.jpg")):
        data = path.read_bytes()
        for percent in (5, 30, 60, 90, 99):
            with pytest.raises(ImageError, match="truncated"):
                decode_image(data[: len(data) * percent // 100], path.name)


def test_jpeg_cut_between_scans_or_restarts_is_truncated():
    for options in (JPEGS["progressive"], JPEGS["restarts"], JPEGS["restart rows"]):
        data = encoded(picture(), "JPEG", **options)
        places = [match.start() for match in re.finditer(rb"\xff[\xc4\xda\xd0-\xd7]", data)][2:]
        assert len(places) > 4
        for place in places:
            for cut in (place, place + 1, place + 2):
                with pytest.raises(ImageError, match="truncated"):
                    decode_image(data[:cut], "cut.jpg")


def test_cut_jpeg_behind_the_end_of_its_thumbnail_is_truncated():
    thumbnail = encoded(picture(48, 64), "JPEG")
    segment = b"Exif\0\0" + thumbnail + b"\0" * 20
    data = encoded(picture(), "JPEG")
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    np.testing.assert_array_equal(decoded(whole), decoded(data))
    cut = whole[: whole.index(END) + 2]
    assert cut.endswith(END)
    for damaged in (cut, whole[: whole.index(END) + 12], whole[: len(whole) * 3 // 4]):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(damaged, "cut.jpg")


def test_cut_jpeg_is_truncated_whatever_follows(jpeg_file):
    for tail in (b"\0" * 5000, b"\xff" * 50, b"<html>error</html>", b"\xff\x02\x00\x03a" + b"x" * 40):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(jpeg_file[: len(jpeg_file) * 3 // 4] + tail, "cut.jpg")


def test_jpeg_without_its_end_marker_is_whole_and_counted(jpeg_file):
    whole, counts = decoded(jpeg_file), Counter()
    for damaged in (jpeg_file[:-2], jpeg_file[:-1], jpeg_file[:-2] + b"\0" * 4096):
        rgb = decode_image(damaged, "cut.jpg", on_warning=lambda name, reason: counts.update([name, reason]))
        np.testing.assert_array_equal(rgb, whole)
    assert counts == {"cut.jpg": 3, "JPEG without its end marker, pixels complete": 3}
    with pytest.warns(ImageWarning, match=r"cut.jpg: JPEG without its end marker"):
        decode_image(jpeg_file[:-2], "cut.jpg")


def test_bytes_behind_a_whole_jpeg_are_harmless(jpeg_file):
    for tail in (b"\0" * 100, b"\0", b"SEFHtrailer", encoded(picture(40, 40), "JPEG"), b"\xff"):
        np.testing.assert_array_equal(decoded(jpeg_file + tail), decoded(jpeg_file))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_other_cut_pictures_are_truncated(kind):
    data = encoded(picture(), kind)
    for percent in range(5, 100):
        with pytest.raises(ImageError, match="cut: truncated"):
            decode_image(data[: len(data) * percent // 100], "cut")


# What is no picture, or too large a one


def png_header(width: int, height: int, bits: int = 8, colour: int = 2, pixels: bytes = b"") -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def jpeg_with_size(width: int, height: int) -> bytes:
    data = encoded(picture(), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def bmp_with_size(width: int, height: int) -> bytes:
    data = encoded(picture(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not an image: the file is empty"),
        (b"\xff", "not an image"),
        (b"hello, this is no picture\n", "not an image: the file is text"),
        (b"BM is how this text begins", "not an image: the file is text or a cut BMP"),
        (b"\n<!DOCTYPE html><html>404</html>", "not an image: the file is HTML"),
        (b"\0" * 5000, "not an image: the file holds zeros"),
        (b"GIF89a" + b"\1" * 50, "not an image: the file is a GIF"),
        (b"PK\x03\x04" + b"\1" * 50, "not an image: the file is a ZIP archive"),
        (b"\1\2\3\4\5\6\7\x08\x09", "the file begins with the bytes 01 02 03 04 05 06 07 08"),
        (png_header(30000, 30000), "PNG of 30000 x 30000 px; at most 16384 px a side and 100 million"),
        (png_header(16384, 6200), "PNG of 16384 x 6200 px"),
        (png_header(16385, 2), "PNG of 16385 x 2 px"),
        (png_header(0, 5), "damaged PNG: its header says 0 x 5"),
        (png_header(50, 50, pixels=b"nothing"), "damaged PNG"),
        (jpeg_with_size(65000, 65000), "JPEG of 65000 x 65000 px"),
        (jpeg_with_size(128, 0), "damaged JPEG"),
        (bmp_with_size(20000, -9000), "BMP of 20000 x 9000 px"),
        (b"\xff\xd8" + END + b"\0" * 50, "damaged JPEG"),
        (b"\xff\xd8\xff\xe0\x00", "truncated JPEG"),
    ],
)
def test_refused(data, message):
    with pytest.raises(ImageError, match=re.escape(message)) as error:
        decode_image(data, "folder/bad.jpg")
    assert str(error.value).startswith("folder/bad.jpg: ")


def test_unreadable_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    table = [
        ("absent.jpg", "missing image"),
        ("", "not a regular file"),
        ("pipe.jpg", "not a regular file"),
        ("nul\0.jpg", "unreadable image"),
        ("x" * 300, "unreadable image"),
        ("huge.jpg", "over the limit"),
    ]
    for name, message in table:
        with pytest.raises(ImageError, match=message):
            read_image(os.path.join(tmp_path, name))


def test_png_bomb_costs_no_memory(tmp_path):
    packer = zlib.compressobj(1)
    row = bytes(1 + 30000 // 8)
    pixels = b"".join(packer.compress(row * 1000) for _ in range(30)) + packer.flush()
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(30000, 30000, bits=1, colour=0, pixels=pixels))
    program = (
        "import re, sys\n"
        "from msposenet.data.images import read_image\n"
        "try: read_image(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
        # Not getrusage: its maximum is that of the process before exec too, this one's.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bomb)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    error, megabytes = done.stdout.split()
    assert error == "ImageError"
    assert int(megabytes) < 1000


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_only_our_errors_escape_from_damaged_pictures(kind):
    data, rng, refused = encoded(picture(48, 64), kind), np.random.default_rng(11), 0
    for _ in range(300):
        damaged = mutate(data, rng)
        start = time.perf_counter()
        try:
            rgb = decode_image(damaged, "fuzz", on_warning=lambda name, reason: None)
            assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
        except PoseError:
            refused += 1
        assert time.perf_counter() - start < 2
    assert refused > 100
