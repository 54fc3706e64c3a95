"""MATLAB files: what SciPy reads from them, and an error for what SciPy would not survive."""

from __future__ import annotations

import io
import math
import struct
import time
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from fuzz import mutate
from matlab_files import EMPTY, matlab, points, release, struct_array

from msposenet.data.formats import matlab as matlab_reader
from msposenet.data.formats.matlab import Struct, Unread, load_variable, scalars
from msposenet.errors import DataError, PoseError


@pytest.fixture
def load(tmp_path):
    def load(data: bytes, name: str = "value"):
        path = tmp_path / "file.mat"
        path.write_bytes(data)
        return load_variable(path, name)

    return load


RNG = np.random.default_rng(3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        *(RNG.integers(0, 100, (3, 4)).astype(kind) for kind in "bBhHiIqQfd"),
        RNG.normal(size=(2, 3, 5)),
        RNG.normal(size=(14, 3, 7)),
        np.array([[1.5]]),
        np.array([[math.nan, math.inf, -math.inf]]),
        np.array([[True, False]]),
        np.array([[7]], np.uint8),
        np.arange(5.0)[:, None],
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}",
)
def test_numbers_are_those_scipy_reads(load, value, compressed):
    data = matlab({"other": "x", "value": value, "last": 1.0}, compressed)
    found = load(data)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, scipy.io.loadmat(io.BytesIO(data))["value"].astype(float))
    np.testing.assert_array_equal(found, value)


def element(order: str, kind: int, contents: bytes) -> bytes:
    return struct.pack(order + "II", kind, len(contents)) + contents + bytes(-len(contents) % 8)


def array(order: str, category: int, shape: tuple[int, ...], contents: bytes, name: bytes = b"value") -> bytes:
    head = element(order, 6, struct.pack(order + "II", category, 0))
    head += element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape)) + element(order, 1, name)
    return element(order, 14, head + contents)


def file_of(order: str, *elements: bytes) -> bytes:
    mark = {"<": b"IM", ">": b"MI"}[order]
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(order + "H", 0x0100) + mark + b"".join(elements)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(load, order):
    numbers = np.arange(6.0).reshape(2, 3)
    doubles = element(order, 9, numbers.astype(order + "f8").tobytes(order="F"))
    data = file_of(order, array(order, 6, (2, 3), doubles))
    np.testing.assert_array_equal(scipy.io.loadmat(io.BytesIO(data))["value"], numbers)
    np.testing.assert_array_equal(load(data), numbers)
    text = file_of(
        order, array(order, 4, (1, 2), element(order, 4, "né".encode("utf-16" + {"<": "-le", ">": "-be"}[order])))
    )
    assert load(text) == "né"


@pytest.mark.parametrize("compressed", [False, True])
def test_text_structs_and_what_is_left_unread(load, compressed):
    cells = np.empty((1, 2), dtype=object)
    cells[0] = [1.0, "a"]
    value = {
        "text": "joint 0é",
        "inner": struct_array([{"x": 1.0, "y": "b"}, {"x": np.array([[1.0, 2.0]])}]),
        "nothing": EMPTY,
        "cells": cells,
        "complex": np.array([[1j]]),
        "sparse": scipy.sparse.csc_matrix(np.eye(2)),
        "no_text": "",
    }
    root = load(matlab({"value": value}, compressed))
    assert isinstance(root, Struct) and len(root) == 1 and set(root.names) == set(value)
    fields = {name: root.column(name)[0] for name in root.names}
    assert fields["text"] == "joint 0é"
    assert fields["nothing"].shape == (0, 0) and fields["no_text"].size == 0
    kinds = {name: found.kind for name, found in fields.items() if isinstance(found, Unread)}
    assert kinds == {"cells": "a cell array", "complex": "complex numbers", "sparse": "a sparse matrix"}
    inner = fields["inner"]
    assert len(inner) == 2 and inner.column("y")[0] == "b" and inner.column("y")[1].size == 0
    assert inner.column("x")[1].tolist() == [[1, 2]]
    assert [found.size for found in inner.column("absent")] == [0, 0]


@pytest.mark.parametrize("compressed", [False, True])
def test_many_numbers_at_once_are_those_read_one_by_one(load, compressed):
    values = [
        1.5, -3.0, np.uint8(7), np.int8(-7), np.uint16(60000), np.int16(-5), np.uint32(4 * 10**9), np.int32(-9),
        np.int64(-(2**40)), np.uint64(2**40), np.float32(0.1), True, 300.0,
        "1", "0", "", "12", "x", "é", EMPTY, math.nan, math.inf, np.array([[1.0, 2.0]]), 1j, np.eye(2), {"x": 1.0},
    ]  # fmt: skip
    structs = [struct_array([{"v": value, "w": 1.0} for value in values]), struct_array([{"w": 2.0}])]
    cells = [load(matlab({"value": entries}, compressed)) for entries in structs]
    numbers, others = scalars(cells[:1], "v")
    assert numbers[:15].tolist() == [*map(float, values[:13]), 1, 0]
    assert set(others) == set(range(15, len(values)))
    assert np.isnan(numbers[15:]).all()
    assert others[16] == "12" and others[17] == "x" and others[18] == "é"
    assert others[19].shape == (0, 0) and math.isnan(others[20].item()) and isinstance(others[23], Unread)
    one_by_one = cells[0].column("v")
    assert [found.item() for found in one_by_one[:13]] == numbers[:13].tolist()
    numbers, others = scalars(cells[1:], "v")
    assert np.isnan(numbers).all() and others[0].size == 0


def bomb(shape: tuple[int, ...], contents: int, category: int = 9, kind: int = 2) -> bytes:
    """A compressed array of zeros, as small as they get."""
    packer = zlib.compressobj(9)
    head = element("<", 6, struct.pack("<II", category, 0))
    head += element("<", 5, struct.pack(f"<{len(shape)}i", *shape)) + element("<", 1, b"value")
    head += struct.pack("<II", kind, contents)
    packed = packer.compress(struct.pack("<II", 14, len(head) + contents) + head)
    for _ in range(contents >> 20):
        packed += packer.compress(bytes(1 << 20))
    packed += packer.flush()
    return file_of("<", struct.pack("<II", 15, len(packed)) + packed)


def nested(depth: int, honest: bool) -> bytes:
    """Cells in cells: SciPy's loader, which calls itself for each, ends the process."""
    head = element("<", 6, struct.pack("<II", 1, 0)) + element("<", 5, struct.pack("<2i", 1, 1)) + element("<", 1, b"")
    size = len(head) + 8
    sizes = [size * (depth - level) - 8 if honest or not level else 8 for level in range(depth)]
    return file_of("<", b"".join(struct.pack("<II", 14, size) + head for size in sizes))


SOUND = matlab({"value": np.arange(6.0)})
LARGE = matlab({"value": np.random.default_rng(4).normal(size=400)})[136:-200]  # a packed variable without its end


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", r"no MATLAB file of version 5 to 7.2 \(empty\)"),
        (b"<html>" * 100, "no MATLAB file of version 5 to 7.2 .begins with b'<html><h'"),
        (b"\0\0\0\0\x0e\0\0\0" * 40, "no MATLAB file of version 5 to 7.2"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(99), "MATLAB 7.3.*'-v7'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "MATLAB 7.3 .HDF5. file, which is not read; in MATLAB load it and save"),
        (SOUND[:-20], "cut off: .* copy the file again"),
        (SOUND[:130], "cut off"),
        (SOUND[:128], "no variable 'value'; found nothing"),
        (matlab({"joint": 1.0, "points": 2.0}), "no variable 'value'; found 'joint', 'points'; is it another kind"),
        (SOUND[:-3] + bytes([SOUND[-3] ^ 255]) + SOUND[-2:], "damaged MATLAB file: Error -3"),
        (file_of("<", struct.pack("<II", 15, len(LARGE)) + LARGE), "damaged MATLAB file: a variable is cut off"),
        (file_of("<", array("<", 6, (10, 10), struct.pack("<II", 9, 800) + bytes(80))), "of 800 bytes where 80 are"),
        (file_of("<", array("<", 6, (3, 4), element("<", 9, bytes(80)))), "80 bytes for 3 x 4 numbers"),
        (file_of("<", array("<", 6, (2**31 - 1,) * 6, element("<", 9, bytes(80)))), "80 bytes for 2147483647 x"),
        (file_of("<", array("<", 6, (1,) * 40, element("<", 9, bytes(8)))), "dimensions 1, 1, 1, 1, 1, ..."),
        (file_of("<", array("<", 6, (-1, 1), element("<", 9, bytes(8)))), "dimensions -1, 1"),
        (file_of("<", array("<", 6, (1, 1), element("<", 77, bytes(8)))), "class 6 with data of type 77"),
        (file_of("<", array("<", 99, (1, 1), element("<", 9, bytes(8)))), "class 99 with data of type 9"),
        (file_of("<", array("<", 4, (1, 2), element("<", 16, b"\xff\xfe"))), "text that is not utf-8"),
        (
            file_of("<", array("<", 2, (1, 10**9), element("<", 5, b"\1\0\0\0") + element("<", 1, b"x"))),
            "a struct of 1000000000 x 1 values in 0 bytes",
        ),
        (
            file_of("<", array("<", 2, (1, 10**9), element("<", 5, b"\1\0\0\0") + element("<", 1, b""))),
            "a struct of 1000000000 x 0 values",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refused(load, data, message):
    start = time.process_time()
    with pytest.raises(DataError, match=message) as error:
        load(data)
    assert "file.mat: " in str(error.value)
    assert time.process_time() - start < 2


def test_files_that_unpack_to_too_much(load, monkeypatch):
    with pytest.raises(DataError, match="5,242,880 bytes for 1 x 5242880 numbers"):
        load(bomb((1, 5 << 20), 5 << 20))
    monkeypatch.setattr(matlab_reader, "MAX_VARIABLE_BYTES", 4 << 20)
    with pytest.raises(DataError, match="a variable is over 4,194,304 bytes when unpacked"):
        load(bomb((1, 5 << 20), 5 << 20))


def test_a_field_ends_within_its_struct(load):
    names = element("<", 5, struct.pack("<i", 2)) + element("<", 1, b"x\0")
    field = array("<", 6, (1, 1), element("<", 9, bytes(8)), b"")
    assert load(file_of("<", array("<", 2, (1, 1), names + field))).column("x")[0].item() == 0
    longer = struct.pack("<II", 14, len(field)) + field[8:]
    with pytest.raises(DataError, match="no array that ends within its struct"):
        load(file_of("<", array("<", 2, (1, 1), names + longer))).column("x")


def test_missing_file(tmp_path):
    for path, message in ((tmp_path / "absent.mat", "missing file"), (tmp_path, "not readable as a MATLAB file")):
        with pytest.raises(DataError, match=message):
            load_variable(path, "value")


@pytest.mark.parametrize("honest", [True, False])
def test_deep_nesting_is_not_followed(load, honest):
    assert isinstance(load(nested(200_000, honest), ""), Unread)


def walk(value, depth: int = 0) -> int:
    """Reads everything there is, a few levels deep."""
    if not isinstance(value, Struct) or depth > 8:
        return 1
    return sum(walk(entry, depth + 1) for name in value.names for entry in value.column(name))


@pytest.mark.parametrize("compressed", [False, True])
def test_only_our_errors_escape_from_damaged_files(load, compressed):
    people = [{"scale": 1.5, "objpos": {"x": 5.0, "y": 6.0}, "annopoints": points({1: (2, 3), 9: (4, 5)}, {1: "1"})}]
    data = matlab({**release([("a.jpg", 1, people), ("b.jpg", 0, None)]), "joints": np.zeros((14, 3, 2))}, compressed)
    rng, refused = np.random.default_rng(31), 0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.process_time()
        for name in ("RELEASE", "joints"):
            try:
                walk(load(damaged, name))
            except PoseError:
                refused += 1
        assert time.process_time() - start < 2
    assert 1000 < refused < 2000
