"""Arrays as bytes between the processes of a job: every bit comes back, and damage is noticed."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest

from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.errors import PeerError

ARRAYS = {
    "weights": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "scalar": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float64),
    "swapped": np.arange(5, dtype=">i4"),
    "not in a row": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
    **{
        f"type {kind}": np.array([0, 1, 100], kind)
        for kind in ("bool", "i1", "i2", "i4", "u2", "u8", "f2", "f8", "c8", "c16")
    },
    '名 \n"': np.ones(1, np.float32),
}


def test_every_bit_comes_back_in_order():
    found = unpack_arrays(pack_arrays(ARRAYS))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].flags.writeable
    assert unpack_arrays(pack_arrays({})) == {}


def test_what_is_no_number_is_not_packed():
    with pytest.raises(TypeError, match="name: arrays of type object"):
        pack_arrays({"name": np.array([{}], object)})


def test_a_flipped_bit_anywhere_is_noticed():
    data = pack_arrays({name: ARRAYS[name] for name in ("weights", "scalar")})
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(PeerError, match="are damaged"):
            unpack_arrays(bytes(damaged))


def test_cut_off_bytes_are_noticed():
    data = pack_arrays({"scalar": ARRAYS["scalar"]})
    for length in range(len(data)):
        with pytest.raises(PeerError, match="are damaged"):
            unpack_arrays(data[:length])


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{}", "the header is no list"),
        (b"[", "the header is no JSON"),
        (b"[" * 100_000, "the header is no JSON"),
        (b"\xff", "the header is no JSON"),
        ([1], "the header is of another form"),
        ([["a", "<f4"]], "the header is of another form"),
        ([["a", "|O", [2]]], "unknown type '|O'"),
        ([["a", "f4,f4", [1]]], "unknown type 'f4,f4'"),
        ([["a", "nonsense", [1]]], "unknown type 'nonsense'"),
        ([["a", "float32", [2]]], "unknown type 'float32'"),
        ([["a", "<U2", [1]]], "unknown type '<U2'"),
        ([["a", "<f4", [-2]]], "has shape [-2]"),
        ([["a", "<f4", [True, 2]]], "has shape [True, 2]"),
        ([["a", "<f4", [2.0]]], "has shape [2.0]"),
        ([["a", "<f4", [1] * 33]], "has shape"),
        ([["a", "<f4", [2**40, 0]]], "has shape"),
        ([["a", "<f4", [3]]], "'a' is cut off"),
        ([["a", "<f4", [2**30, 2**30]]], "'a' is cut off"),
        ([["a", "<f4", [0, 2**31, 2**31, 2**31]]], "has shape"),
        ([["a", "<f4", [1]], ["a", "<f4", [1]]], "'a' comes twice"),
        ([["a", "<f4", [1]]], "4 bytes are left over"),
    ],
)
def test_a_header_that_lies_is_refused_though_its_checksum_is_right(header, said):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = header + bytes(8)
    data = struct.pack("<4sII", b"MSPA", len(header), zlib.crc32(body)) + body
    with pytest.raises(PeerError) as caught:
        unpack_arrays(data)
    assert said in str(caught.value)
