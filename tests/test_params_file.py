"""`.params` files: the same bytes as MXNet, and no file, however broken, does more than raise CheckpointError."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faults import Hostile, run_python
from fuzz import mutate

from msposenet.errors import CheckpointError, PoseError
from msposenet.storage import FileDigest
from msposenet.weights.manifest import MANIFEST_NAME, Manifest, manifest_bytes
from msposenet.weights.params_file import params_bytes, read_params, write_params

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
FUZZ_MUTATIONS = int(os.environ.get("MSPOSENET_FUZZ_MUTATIONS", "500"))


def arrays_of_all_kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = {
        "arg:conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "aux:bn.running_mean": rng.standard_normal(5).astype(np.float32),
        "one": np.array([5.0], np.float32),
        "no rows": np.zeros((0, 3), np.float32),
        "Größe/尺寸": rng.standard_normal((2, 1, 2)).astype(np.float32),
        "extremes": np.array([np.finfo(np.float32).max, -0.0, 1e-45], np.float32),
    }
    for dtype in ("float16", "float64", "uint8", "int8", "int32", "int64"):
        arrays[dtype] = rng.integers(0, 100, (3, 2)).astype(dtype)
        arrays[f"second {dtype}"] = rng.integers(0, 100, 3).astype(dtype)
    arrays["bool"] = np.array([True, False, True])
    return arrays


def array_bytes(magic: int | None, shape: tuple, values: bytes, *, flag=0, device=(1, 0), storage=0) -> bytes:
    """One array as versions 0 (magic None) to 3 store it."""
    head = b"" if magic is None else struct.pack("<I", magic)
    head += struct.pack("<i", storage) if magic in (V2, V3) else b""
    dimensions = f"<{len(shape)}{'I' if magic is None else 'q'}"
    return (
        head
        + struct.pack("<I", len(shape))
        + struct.pack(dimensions, *shape)
        + struct.pack("<iii", *device, flag)
        + values
    )


def file_bytes(*arrays: bytes, names: tuple = (b"a",), count: int | None = None, reserved: int = 0) -> bytes:
    head = struct.pack("<QQQ", 0x112, reserved, len(arrays) if count is None else count)
    return (
        head + b"".join(arrays) + struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n for n in names)
    )


VALUES = np.arange(6, dtype="<f4").tobytes()
GOOD = array_bytes(V2, (2, 3), VALUES)


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def write(tmp_path: Path, data: bytes, name: str = "net.params") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# The same files as MXNet


def test_writes_the_bytes_that_mxnet_writes(tmp_path):
    from msposenet.runtime import mx

    arrays = arrays_of_all_kinds()
    mx.nd.save(
        str(tmp_path / "theirs"), {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
    )
    write_params(tmp_path / "ours", arrays)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert params_bytes(arrays) == (tmp_path / "theirs").read_bytes()
    buffer = io.BytesIO()
    write_params(buffer, arrays)
    assert buffer.getvalue() == (tmp_path / "theirs").read_bytes()


def test_mxnet_loads_what_is_written(tmp_path):
    from msposenet.runtime import mx

    arrays = arrays_of_all_kinds()
    write_params(tmp_path / "ours", arrays)
    loaded = {name: array.asnumpy() for name, array in mx.nd.load(str(tmp_path / "ours")).items()}
    assert_same({name: loaded[name] for name in arrays}, arrays)


def test_reads_what_a_gluon_network_saves(tmp_path):
    from msposenet.runtime import mx

    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4))
    net.initialize(mx.init.Xavier())
    path = tmp_path / "net.params"
    net.save_parameters(str(path))
    found = read_params(path)
    assert set(found) == {"0.weight", "0.bias", "1.gamma", "1.beta", "1.running_mean", "1.running_var"}
    np.testing.assert_array_equal(found["0.weight"], net[0].weight.data().asnumpy())
    found["0.weight"] += 1  # writable, as a network's own arrays are


def test_reads_back_what_it_wrote(tmp_path):
    arrays = arrays_of_all_kinds()
    write_params(tmp_path / "all.params", arrays)
    assert_same(read_params(tmp_path / "all.params"), arrays)
    write_params(tmp_path / "none.params", {})
    assert read_params(tmp_path / "none.params") == {}


def test_layout_in_memory_does_not_matter(tmp_path):
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    odd = {"transposed": plain.T, "strided": plain[:, ::2], "big-endian": plain.astype(">f4"), "reversed": plain[::-1]}
    write_params(tmp_path / "odd.params", odd)
    assert_same(
        read_params(tmp_path / "odd.params"),
        {name: np.ascontiguousarray(array, dtype="<f4") for name, array in odd.items()},
    )


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.float32(3).reshape(()), "no dimension"),
        (np.zeros(3, np.int16), "int16"),
        (np.zeros(3, np.complex64), "complex64"),
        (np.array(["a"]), "<U1"),
        (np.array([None]), "object"),
    ],
)
def test_refuses_to_write_what_the_format_cannot_hold(tmp_path, array, said):
    with pytest.raises(CheckpointError, match=f"'the one'.*{said}"):
        write_params(tmp_path / "x.params", {"fine": np.zeros(3, np.float32), "the one": array})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        file_bytes(GOOD),
        file_bytes(array_bytes(V1, (2, 3), VALUES)),
        file_bytes(array_bytes(None, (2, 3), VALUES)),
        file_bytes(array_bytes(V3, (2, 3), VALUES)),
        file_bytes(array_bytes(V2, (2, 3), VALUES, device=(2, 7))),  # saved from GPU 7
    ],
    ids=["version 2", "version 1", "version 0", "version 3", "from a GPU"],
)
def test_reads_every_version(tmp_path, data):
    from msposenet.runtime import mx

    path = write(tmp_path, data)
    assert_same(read_params(path), {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    with mx.util.np_shape(struct.unpack_from("<I", data, 24)[0] == V3):  # MXNet agrees that this is such a file
        np.testing.assert_array_equal(mx.nd.load(str(path))["a"].asnumpy(), np.arange(6).reshape(2, 3))


def test_reads_a_scalar_of_version_3(tmp_path):
    found = read_params(write(tmp_path, file_bytes(array_bytes(V3, (), VALUES[4:8]))))
    assert found["a"].shape == () and found["a"] == 1.0


# Files that are something else, or broken


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"conv.weight": 1}))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def numpy_zip() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty .0 bytes."),
    "one byte": (b"\x12", "no MXNet .params file"),
    "HTML": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page.*fetch it again"),
    "PyTorch zip": (torch_zip(), "PyTorch checkpoint.*msposenet import"),
    "PyTorch before 1.6": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2), "PyTorch checkpoint"),
    "Trainer states": (pickle.dumps({"states": 1}), "pickle, which is never opened"),
    "npz": (numpy_zip(), "zip archive"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    "symbol": (b'{"nodes": []}', "JSON"),
    "text": (b"hello, hello, hello", "starts with 68 65 6c 6c"),
    "zeros": (bytes(1000), "starts with 00 00 00 00"),
}
BROKEN_FILES = {
    "magic only": (struct.pack("<Q", 0x112), "header needs"),
    "reserved word": (file_bytes(GOOD, reserved=1), "header says"),
    "array magic": (file_bytes(array_bytes(0xF993FACB, (2, 3), VALUES)), "0xf993facb"),
    "row-sparse": (file_bytes(array_bytes(V2, (2, 3), VALUES, storage=1)), "row-sparse"),
    "bfloat16": (file_bytes(array_bytes(V2, (2, 3), VALUES, flag=12)), "bfloat16"),
    "type flag": (file_bytes(array_bytes(V2, (2, 3), VALUES, flag=99)), "type 99"),
    "device type": (file_bytes(array_bytes(V2, (2, 3), VALUES, device=(77, 0))), "device type 77"),
    "not initialised": (file_bytes(struct.pack("<IiI", V2, 0, 0)), "before it was initialised"),
    "33 dimensions": (file_bytes(array_bytes(V2, (1,) * 33, VALUES)), "33 dimensions"),
    "4e9 dimensions": (file_bytes(struct.pack("<IiI", V2, 0, 2**32 - 1)), "4,294,967,295 dimensions"),
    "negative dimension": (file_bytes(array_bytes(V2, (-2, -3), VALUES)), "shape"),
    "too long": (file_bytes(array_bytes(V2, (2, 4), VALUES)), "cut"),
    "huge": (file_bytes(array_bytes(V2, (1 << 30, 1 << 30), VALUES)), "shape .1073741824, 1073741824."),
    "product wraps to 0": (file_bytes(array_bytes(V2, (1 << 32, 1 << 32), VALUES)), "shape"),
    "huge but no rows": (file_bytes(array_bytes(V2, (0, 1 << 62), b"")), "shape"),
    "1e18 arrays": (file_bytes(GOOD, count=10**18), "1,000,000,000,000,000,000 arrays"),
    "one array more": (file_bytes(GOOD, count=2), "array 2 of 2"),
    "a list": (file_bytes(GOOD, names=()), "saved as a list"),
    "a name more": (file_bytes(GOOD, names=(b"a", b"b")), "1 arrays and 2 names"),
    "a name twice": (file_bytes(GOOD, GOOD, names=(b"a", b"a")), "'a' occurs twice"),
    "name no UTF-8": (file_bytes(GOOD, names=(b"\xff\xfe",)), "UTF-8"),
    "truth value 7": (file_bytes(array_bytes(V2, (2,), b"\x01\x07", flag=7)), "truth value is 7"),
}


@pytest.mark.parametrize(
    ("data", "said"), [*OTHER_FILES.values(), *BROKEN_FILES.values()], ids=[*OTHER_FILES, *BROKEN_FILES]
)
def test_refuses_and_says_what_it_looks_like(tmp_path, data, said):
    path = write(tmp_path, data)
    with pytest.raises(CheckpointError, match=f"net.params: .*{said}"):
        read_params(path)


def test_refuses_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("absent", "no such file"), (".", "folder or a device"), ("pipe", "folder or a device")):
        with pytest.raises(CheckpointError, match=said):
            read_params(tmp_path / name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no such file"):
        read_params(tmp_path / "file" / "below")


def test_every_cut_is_noticed(tmp_path):
    data = params_bytes({"a": np.arange(4, dtype=np.float32), "b": np.zeros((2, 1), np.float16)})
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            read_params(write(tmp_path, data[:length]))
    assert len(read_params(write(tmp_path, data))) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_file_never_runs(tmp_path, protocol):
    data = pickle.dumps(Hostile(tmp_path / "ran"), protocol)
    with pytest.raises(CheckpointError):
        read_params(write(tmp_path, data))
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (1 << 62, 2), (1 << 31,), (3 << 28,)])
def test_a_header_of_huge_shapes_takes_no_memory(tmp_path, shape):
    path = write(tmp_path, file_bytes(array_bytes(V2, shape, VALUES)))
    code = (
        "import sys\n"
        "from msposenet.errors import CheckpointError\n"
        "from msposenet.weights.params_file import read_params\n"
        "try:\n    read_params(sys.argv[1])\nexcept CheckpointError:\n    pass\nelse:\n    sys.exit('was read')\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    run = run_python(code, path)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 200_000  # KiB


# Damage that still parses


def test_trailing_bytes_give_a_warning(tmp_path):
    path = write(tmp_path, file_bytes(GOOD) + b"tail")
    with pytest.warns(UserWarning, match=r"net.params: 4 bytes follow its end"):
        assert list(read_params(path)) == ["a"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_give_a_warning(tmp_path, value, dtype):
    write_params(tmp_path / "bad.params", {"good": np.ones(3, dtype), "bad": np.array([1, value, value, 2], dtype)})
    with pytest.warns(UserWarning, match=r"bad.params: array 'bad' holds 2 NaN or infinite values of 4"):
        read_params(tmp_path / "bad.params")


def test_a_good_file_gives_no_warning(tmp_path):
    path = write(tmp_path, params_bytes(arrays_of_all_kinds()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_params(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest().upper())


def test_a_wrong_sha256_is_an_error(tmp_path):
    path = write(tmp_path, file_bytes(GOOD))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    write(tmp_path, file_bytes(array_bytes(V2, (2, 3), VALUES[:-1] + b"\x41")))
    with pytest.raises(CheckpointError, match=r"net.params: is damaged: its SHA-256"):
        read_params(path, sha256=sha256)


def test_a_manifest_beside_the_file_is_obeyed(tmp_path):
    path = write(tmp_path, file_bytes(GOOD))
    digest = FileDigest(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    write(tmp_path, manifest_bytes(Manifest(1, 1, {path.name: digest})), MANIFEST_NAME)
    assert list(read_params(path)) == ["a"]
    flipped = bytearray(path.read_bytes())
    flipped[-20] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_params(path)
    write(tmp_path, b"{}", MANIFEST_NAME)
    with pytest.warns(UserWarning, match="read without verifying"):
        read_params(path)


# Anything at all


def with_strange_word(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with eight bytes, among the headers and names of a small file often a count or a length, made extreme."""
    at = int(rng.integers(0, len(data) - 8))
    strange = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]))
    return data[:at] + struct.pack("<Q", strange) + data[at + 8 :]


def test_mutated_files_raise_only_pose_errors(tmp_path):
    data = params_bytes(arrays_of_all_kinds())
    rng = np.random.default_rng(2019)
    refused = 0
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for number in range(FUZZ_MUTATIONS):
            path = write(tmp_path, (mutate, with_strange_word)[number % 2](data, rng))
            try:
                arrays = read_params(path)
            except PoseError:
                refused += 1
            except BaseException as error:
                raise AssertionError(f"mutation {number} of seed 2019 raises {error!r}") from error
            else:
                assert sum(array.nbytes for array in arrays.values()) <= path.stat().st_size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.3 * FUZZ_MUTATIONS < refused < FUZZ_MUTATIONS  # both branches were taken, often
    assert peak < 20e6


def test_reading_weights_does_not_import_mxnet():
    code = "import sys, msposenet.weights.params_file, msposenet.training.checkpoint; sys.exit('mxnet' in sys.modules)"
    assert run_python(code).returncode == 0
