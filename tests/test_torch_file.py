"""Files of `torch.save`: read as PyTorch reads them, and no file, however made, does more than raise CheckpointError.

The files in torch_files/ were written by PyTorch itself (make_torch_files.py); hostile ones are made here.
"""

from __future__ import annotations

import copyreg
import gzip
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults import run_python
from fuzz import mutate
from torch_pickles import archive, described, number, numbers, storage, tensor, text

from msposenet.errors import CheckpointError, PoseError
from msposenet.weights.params_file import params_bytes
from msposenet.weights.torch_file import read_state_dict

FILES = Path(__file__).resolve().parent / "torch_files"
FUZZ_MUTATIONS = int(os.environ.get("MSPOSENET_FUZZ_MUTATIONS", "600"))
LEGACY_HEAD = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."
)


def expected(group: str) -> dict[str, np.ndarray]:
    with np.load(FILES / "expected.npz") as arrays:
        return {name[len(group) + 1 :]: arrays[name] for name in arrays.files if name.startswith(f"{group}/")}


SIX = np.arange(6, dtype="<f4").tobytes()
GOOD = archive(described(weight=tensor()), {"0": SIX})


def write(folder: Path, data: bytes, name: str = "net.pth") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def assert_same(found: dict, wanted: dict) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].flags.c_contiguous and found[name].flags.writeable, name


# What PyTorch wrote


@pytest.mark.parametrize(
    ("name", "group", "notes"),
    [
        ("plain", "net", []),
        ("plain_legacy", "net", []),
        ("no_checksums", "net", []),
        ("parallel", "net", ["`module.` (DataParallel) was taken off"]),
        ("checkpoint", "net", ["its `state_dict` was taken", "under ema, earlier too", "`module."]),
        ("checkpoint_legacy", "net", ["its `state_dict` was taken", "under ema, earlier too", "`module."]),
        ("nested", "net", ["its `model.net` was taken"]),
        ("odd", "odd", []),
        ("odd_legacy", "odd", []),
        ("kinds", "kinds", ["float64 are taken as float32"]),
        ("kinds_legacy", "kinds", ["float64 are taken as float32"]),
    ],
)
def test_reads_what_pytorch_wrote(name, group, notes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_state_dict(FILES / f"{name}.pth")
    assert_same(found, expected(group))
    assert len(found.notes) == len(notes)
    assert [said for said, note in zip(notes, found.notes) if said not in note] == []


@pytest.mark.parametrize(("name", "dropped_bits"), [("half", 13), ("bfloat16", 16)])
def test_narrow_numbers_are_the_rounded_ones(name, dropped_bits):
    found = read_state_dict(FILES / f"{name}.pth")
    for key, wanted in expected("net").items():
        array = found[key]
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, wanted, rtol=2.0 ** (dropped_bits - 24), atol=1e-7)
        assert not (array.view(np.uint32) & ((1 << dropped_bits) - 1)).any()
    assert (found["0.weight"] != expected("net")["0.weight"]).any()


def test_parameters_are_tensors():
    found = read_state_dict(FILES / "parameters.pth")
    assert_same(found, {name: array for name, array in expected("net").items() if array.dtype.kind == "f"})


def test_shared_values_are_not_shared_afterwards(tmp_path):
    found = read_state_dict(FILES / "odd.pth")
    before = found["whole"].copy()
    found["corner"] += 1
    found["expanded"][0] += 1
    np.testing.assert_array_equal(found["whole"], before)
    assert (found["expanded"][0] != found["expanded"][1]).all()
    tied = read_state_dict(write(tmp_path, archive(described(one=tensor(), two=tensor()), {"0": SIX})))
    tied["one"] += 1
    assert_same({"two": tied["two"]}, {"two": np.arange(6.0).reshape(2, 3)})


def test_numpy_arrays_in_place_of_tensors_are_read(tmp_path):
    torch_like = {
        "state_dict": {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(3), "t": np.array(["x"])}
    }
    found = read_state_dict(write(tmp_path, archive(pickle.dumps(torch_like, 2))))
    assert_same(found, {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3)})
    assert found.notes[1].endswith("no tensors: t")


def test_bytes_in_the_other_order_are_turned(tmp_path):
    swapped = np.arange(6, dtype=">f4").tobytes()
    data = archive(described(weight=tensor()), {"0": swapped}, more=[("net/byteorder", b"big")])
    assert_same(read_state_dict(write(tmp_path, data)), {"weight": np.arange(6.0).reshape(2, 3)})
    data = archive(described(weight=tensor()), {"0": swapped}, more=[("net/byteorder", b"middle")])
    with pytest.raises(CheckpointError, match="neither little nor big"):
        read_state_dict(write(tmp_path, data))


def test_a_part_of_an_old_storage_is_found(tmp_path):
    part = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("k") + text("cpu") + number(6)
    part += b"(" + text("view") + number(2) + number(3) + b"ttQ"
    body = described(weight=tensor(part, shape=(3,), strides=(1,)))
    data = LEGACY_HEAD + body + b"\x80\x02](" + text("k") + b"e." + struct.pack("<q", 6) + SIX
    assert_same(read_state_dict(write(tmp_path, data)), {"weight": np.array([2.0, 3.0, 4.0])})


def test_safetensors_are_read(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
    }

    def packed(header: object, values: bytes = SIX + b"\x80\x3f\x00\xc0" + struct.pack("<q", 9)) -> bytes:
        raw = json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + values

    found = read_state_dict(write(tmp_path, packed(header)))
    wanted = {"w": np.arange(6.0).reshape(2, 3), "b": np.array([1.0, -2.0]), "n": np.array(9)}
    assert_same(found, wanted)
    for change in (
        {"dtype": "F8"}, {"shape": [2, 4]}, {"shape": [-2, -3]}, {"shape": [2.0, 3]}, {"data_offsets": [12, 36]},
        {"data_offsets": [0, 1 << 50], "shape": [1 << 48]}, {"shape": "23"}, {"shape": [6] + [1] * 32},
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="damaged safetensors"):
            read_state_dict(write(tmp_path, packed({**header, "w": {**header["w"], **change}})))
    for cut in range(9, len(packed(header))):
        with pytest.raises(CheckpointError):
            read_state_dict(write(tmp_path, packed(header)[:cut]))


def test_every_entry_is_told_of_values_that_are_not_finite(tmp_path):
    values = np.array([0, 1, np.nan, 3, 4, np.inf], "<f4").tobytes()
    with pytest.warns(UserWarning, match=r"net.pth: tensor 'weight': NaN or infinite"):
        read_state_dict(write(tmp_path, archive(described(weight=tensor()), {"0": values})))


# Code in a file


def system(command: str) -> dict[str, bytes]:
    """One pickle for each way in which Python's unpickler can be made to call os.system."""
    module = f"{os.system.__module__}\nsystem\n".encode()
    short = b"\x8c" + bytes([len(command)]) + command.encode()
    return {
        "REDUCE": b"\x80\x02c" + module + b"(" + text(command) + b"tR.",
        "INST": b"(S'" + command.encode() + b"'\ni" + module + b".",
        "OBJ": b"\x80\x02(c" + module + text(command) + b"o.",
        "NEWOBJ": b"\x80\x02c" + module + text(command) + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "eval": b"\x80\x02cbuiltins\neval\n" + text(f"__import__('os').system({command!r})") + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x06shutil\x8c\x09os.system\x93" + short + b"\x85R.",
        "state": b"\x80\x02ctypes\nSimpleNamespace\n)R}"
        + text("__setstate__")
        + b"c"
        + module
        + b"sb"
        + text(command)
        + b"b.",
        "extension": b"\x80\x02\x82\xf0" + text(command) + b"\x85R.",
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "legacy header", "inside a state dict"])
@pytest.mark.parametrize("way", list(system("")))
def test_code_in_a_file_never_runs(tmp_path, way, form):
    target = tmp_path / "ran"
    hostile = system(f"touch {target}")[way]
    if form == "zip":
        data = archive(hostile)
    elif form == "legacy":
        data = LEGACY_HEAD + hostile
    elif form == "legacy header":
        data = LEGACY_HEAD[:20] + hostile
    else:
        data = archive(
            described(weight=tensor())[:-2] + text("epoch") + hostile[2 if hostile[0] == 0x80 else 0 : -1] + b"u."
        )
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(CheckpointError, match=r"net\.pth"):
            read_state_dict(write(tmp_path, data))
        assert not target.exists()
        if form == "zip" and way != "NEWOBJ":  # which Python does with classes only
            pickle.loads(hostile)
            assert target.exists()  # it would have
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize(
    "name",
    [
        "os system", "builtins eval", "builtins getattr", "torch.nn.modules.conv Conv2d", "argparse Namespace",
        "yacs.config CfgNode", "torch load", "torch._utils _rebuild_sparse_tensor", "numpy load", "torch._utils os",
        "torch.storage _load_from_bytes", "collections.OrderedDict __class__", "torch UntypedStorage",
        "msposenet.weights.torch_pickle _tensor", "functools partial", "operator attrgetter",
    ],
)  # fmt: skip
def test_other_names_are_refused_with_a_way_out(tmp_path, name):
    module, _, attribute = name.partition(" ")
    data = archive(b"\x80\x02}" + text("cfg") + f"c{module}\n{attribute}\n".encode() + b"s.")
    with pytest.raises(CheckpointError, match=rf"net.pth: names '{module}.{attribute}'.*save its weights alone"):
        read_state_dict(write(tmp_path, data))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("whole_network.pth", "names 'torch.nn.modules.container.Sequential'.*state_dict"),
        ("torchscript.pt", r"TorchScript archive.*state_dict\(\)"),
    ],
)
def test_networks_and_programs_are_refused(file, said):
    with pytest.raises(CheckpointError, match=f"{file}: .*{said}"):
        read_state_dict(FILES / file)


# Files that are something else


def html_in_a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("index.html", "<html>")
    return buffer.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty .0 bytes."),
    "one byte": (b"\x80", "pickle"),
    "HTML": (b"\n<!DOCTYPE html><html>Virus scan warning</html>", "HTML page.*fetch it again"),
    "text": (b"hello, hello", "starts with 68 65 6c 6c"),
    "JSON": (b'{"a": 1}', "JSON"),
    "gzip": (gzip.compress(b"weights"), "gzip"),
    "npz": (html_in_a_zip(), "zip archive that torch.save did not write"),
    ".params": (params_bytes({"a": np.zeros(3, np.float32)}), "MXNet .params"),
    "plain pickle": (pickle.dumps({"a": 1}), "pickle"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "tar": (b"x" * 257 + b"ustar\x00", "tar archive"),
}
ODD_FILES = {
    "compressed": (archive(described(w=tensor()), {"0": SIX}, method=zipfile.ZIP_DEFLATED), r"compressed .method 8"),
    "no storage": (archive(described(w=tensor())), "has no entry 'net/data/0'"),
    "short storage": (archive(described(w=tensor()), {"0": SIX[:-1]}), "23 bytes, its tensors need 24"),
    "no tensors": (archive(described(w=b"K\x01")), "no mapping of names to tensors"),
    "a tensor": (archive(b"\x80\x02" + tensor() + b".", {"0": SIX}), "single tensor"),
    "a list": (archive(b"\x80\x02]" + tensor() + b"a.", {"0": SIX}), "no mapping of names to tensors"),
    "big-endian": (LEGACY_HEAD.replace(b"\x88u.", b"\x89u."), "big-endian"),
    "other protocol": (LEGACY_HEAD.replace(b"M\xe9\x03", b"M\xea\x03"), "header is not PyTorch's"),
    "other magic": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x18." + LEGACY_HEAD[15:], "header is not PyTorch's"),
    "a module": (archive(described(w=b"(" + text("module") + b"NNNtQ")), "torch.nn.Module"),
    "old persistent": (archive(described(w=b"Pmodule\n")), "persistent 'module'"),
}  # fmt: skip
TENSORS = {
    "beyond the values": tensor(offset=1),
    "a row too many": tensor(shape=(3, 3)),
    "too wide a stride": tensor(strides=(4, 1)),
    "negative offset": tensor(offset=-1),
    "negative stride": tensor(shape=(2,), strides=(-1,)),
    "negative size": tensor(shape=(-2, -3)),
    "sizes without strides": tensor(strides=(1,)),
    "33 dimensions": tensor(shape=(1,) * 33, strides=(1,) * 33),
    "huge and empty": tensor(shape=(0, 1 << 61), strides=(1, 1)),
    "a truth value as size": tensor().replace(numbers(2, 3), b"(\x88\x88t"),
    "no storage": tensor(values=number(3)),
    "a storage that is none": tensor(values=storage(count=text("6"))),
    "a key that is none": tensor(values=storage(key=number(0))),
    "two lengths": tensor() + b"0" + tensor(values=storage(count=number(7))),
    "a type as storage": tensor(values=storage(kind=b"float32")),
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"tR",
    "a tensor called": tensor() + b")R",
    "state of a number": b"K\x01}b",
    "state of a type": (
        b"cnumpy\ndtype\n" + text("f8") + b"\x85R(K\x03" + text(">") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    ),
    "bytes that are no array": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") + b"\x85RC\x03abc\x86R",
    "an array from nothing": b"cnumpy\nndarray\n" + numbers(1 << 40) + b"\x85R",
    "another text": b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R",
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), [*OTHER_FILES.values(), *ODD_FILES.values()], ids=[*OTHER_FILES, *ODD_FILES])
def test_refuses_and_says_what_it_looks_like(tmp_path, data, said):
    with pytest.raises(CheckpointError, match=f"net.pth: .*{said}"):
        read_state_dict(write(tmp_path, data))


@pytest.mark.parametrize("made", TENSORS.values(), ids=list(TENSORS))
def test_a_tensor_that_cannot_be_is_refused(tmp_path, made):
    assert list(read_state_dict(write(tmp_path, GOOD))) == ["weight"]
    with pytest.raises(CheckpointError, match=r"net.pth: .*(makes no sense|repeat each other)"):
        read_state_dict(write(tmp_path, archive(described(weight=made), {"0": SIX})))


def test_paths_that_are_no_files(tmp_path):
    for name, said in (("absent", "no such file"), (".", "folder or a device")):
        with pytest.raises(CheckpointError, match=said):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["plain", "plain_legacy", "no_checksums", "checkpoint_legacy"])
def test_every_cut_is_noticed(tmp_path, name):
    data = (FILES / f"{name}.pth").read_bytes()
    for length in {*range(0, len(data), len(data) // 80), *range(len(data) - 20, len(data))}:
        with pytest.raises(CheckpointError):
            read_state_dict(write(tmp_path, data[:length]))


def test_bytes_after_the_end_of_an_old_file_give_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="4 bytes follow its end"):
        read_state_dict(write(tmp_path, (FILES / "plain_legacy.pth").read_bytes() + b"tail"))


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    data = bytearray((FILES / "plain.pth").read_bytes())
    with zipfile.ZipFile(FILES / "plain.pth") as made:
        entry = made.getinfo("plain/data/0")
    data[entry.header_offset + 300] ^= 4
    with pytest.raises(CheckpointError, match="checksum of 'plain/data/0'"):
        read_state_dict(write(tmp_path, bytes(data)))


# Files made to take memory or time


def many(count: int, step: bytes) -> bytes:
    return b"\x80\x02" + step * count + b"."


def folded(levels: int, pair: bytes) -> bytes:
    """A value that holds itself twice at each level: small in memory, endless when walked or hashed."""
    return b"\x80\x02)" + b"".join(b"q" + bytes([0]) + b"h\x00" + pair for _ in range(levels))


def overlapping() -> bytes:
    """An archive with 300 storages that are all the same megabyte, of which one number is wanted."""
    names = [str(number) for number in range(300)]
    body = described(
        **{name: tensor(storage(key=text(name), count=number(1)), shape=(1,), strides=(1,)) for name in names}
    )
    data = bytearray(archive(body, {"0": bytes(1 << 20)}))
    start = data.rfind(b"PK\x05\x06")
    listed_at = struct.unpack_from("<I", data, start + 16)[0]
    second = data.find(b"PK\x01\x02", listed_at + 4)
    entry = bytes(data[second:start])
    copies = b""
    for name in names[1:]:
        full = f"net/data/{name}".encode()
        copies += entry[:28] + struct.pack("<H", len(full)) + entry[30:46] + full
    listed = bytes(data[listed_at:start]) + copies
    return (
        bytes(data[:listed_at])
        + listed
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 301, 301, len(listed), listed_at, 0)
    )


BOMBS = {
    "one long tuple for many calls": archive(
        b"\x80\x02(" + b"N" * 500_000 + b"tq\x000ctorch\ndevice\nq\x010" + b"h\x01h\x00R0" * 120_000 + b"}."
    ),
    "memo index": archive(b"\x80\x02)r\xff\xff\xff\xff."),
    "string length": archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a."),
    "bytearray length": archive(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a."),
    "integer length": archive(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "a million digits": archive(b"I" + b"9" * 1_000_000 + b"\n."),
    "a line without end": archive(b"c" + b"a" * 3_000_000),
    "steps": archive(many(3_000_000, b"N")),
    "depth of lists": archive(b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b"."),
    "depth of tuples": archive(b"\x80\x02)" + b"\x85" * 900_000 + b"."),
    "folded as a value": archive(b"\x80\x02}" + text("state_dict") + folded(200, b"\x86")[2:] + b"s."),
    "folded as a key": archive(b"\x80\x02}" + folded(200, b"\x86")[2:] + tensor() + b"s.", {"0": SIX}),
    "colliding keys": archive(
        b"\x80\x02}(" + b"".join(number(index * ((1 << 61) - 1)) + b"N" for index in range(50_000)) + b"u."
    ),
    "text copied over and over": archive(
        b"\x80\x02" + text("a" * 100_000) + b"q\x000c_codecs\nencode\nq\x010" + b"h\x01h\x00\x85R" * 10_000 + b"}."
    ),
    "a view of one value": archive(described(w=tensor(shape=(1 << 40,), strides=(0,))), {"0": SIX}),
    "a view beyond all numbers": archive(described(w=tensor(shape=((1 << 61),) * 32, strides=(0,) * 32)), {"0": SIX}),
    "entries that overlap": overlapping(),
    "a mapping in itself": archive(b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."),
    "a packed storage": archive(described(w=tensor()), {"0": bytes(50_000_000)}, method=zipfile.ZIP_DEFLATED),
}  # fmt: skip


def test_no_file_takes_much_memory_or_time(tmp_path):
    for index, data in enumerate(BOMBS.values()):
        write(tmp_path, data, f"{index}.pth")
    code = (
        "import sys, time\n"
        "from msposenet.errors import CheckpointError\n"
        "from msposenet.weights.torch_file import read_state_dict\n"
        "for index in range(int(sys.argv[2])):\n"
        "    start = time.process_time()\n"
        "    try:\n        read_state_dict(f'{sys.argv[1]}/{index}.pth')\n"
        "    except CheckpointError:\n        pass\n"
        "    else:\n        sys.exit(f'{index} was read')\n"
        "    peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
        "    print(peak, time.process_time() - start)\n"
    )
    run = run_python(code, tmp_path, len(BOMBS))
    assert run.returncode == 0, run.stderr
    for name, line in zip(BOMBS, run.stdout.splitlines()):
        peak, seconds = map(float, line.split())
        assert peak < 400_000, name  # KiB
        assert seconds < 5, name


def test_entries_that_overlap_are_not_read_over_and_over(tmp_path):
    with pytest.raises(CheckpointError, match="they overlap"):
        read_state_dict(write(tmp_path, overlapping()))


def test_a_large_file_takes_its_own_size(tmp_path):
    count = 8 << 20
    names = [f"layer{index}" for index in range(4)]
    body = described(
        **{name: tensor(storage(key=text(name), count=number(count)), shape=(count,), strides=(1,)) for name in names}
    )
    path = write(tmp_path, archive(body, {name: bytes(4 * count) for name in names}))
    tracemalloc.start()
    found = read_state_dict(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(array.nbytes for array in found.values()) == 16 * count
    assert peak < 1.2 * path.stat().st_size


# Anything at all


@pytest.mark.parametrize("name", ["plain", "no_checksums", "checkpoint_legacy", "odd_legacy", "kinds"])
def test_mutated_files_raise_only_pose_errors(tmp_path, name):
    data = (FILES / f"{name}.pth").read_bytes()
    if name == "kinds":  # without the checksum of the description, that damage to it is looked at
        data = data.replace(
            struct.pack("<I", zlib.crc32(zipfile.ZipFile(io.BytesIO(data)).read("kinds/data.pkl"))), bytes(4)
        )
    rng = np.random.default_rng(2019)
    refused, slowest = 0, 0.0
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for number in range(FUZZ_MUTATIONS // 5):
            path = write(tmp_path, mutate(data, rng))
            start = time.process_time()
            try:
                arrays = read_state_dict(path)
            except PoseError:
                refused += 1
            except BaseException as error:
                raise AssertionError(f"mutation {number} of seed 2019 of {name} raises {error!r}") from error
            else:
                assert sum(array.nbytes for array in arrays.values()) <= 4 * path.stat().st_size + (1 << 20)
            slowest = max(slowest, time.process_time() - start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 0.1 * FUZZ_MUTATIONS / 5
    assert peak < 20e6 and slowest < 2


def test_mutated_descriptions_raise_only_pose_errors(tmp_path):
    with zipfile.ZipFile(FILES / "checkpoint.pth") as made:
        members = {name: made.read(name) for name in made.namelist()}
    description = members.pop("checkpoint/data.pkl")
    more = [(name.replace("checkpoint/", "net/"), data) for name, data in members.items()]
    rng = np.random.default_rng(7)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for number in range(FUZZ_MUTATIONS):
            path = write(tmp_path, archive(mutate(description, rng), more=more))
            try:
                read_state_dict(path)
            except PoseError:
                refused += 1
            except BaseException as error:
                raise AssertionError(f"mutation {number} of seed 7 raises {error!r}") from error
    assert 0.3 * FUZZ_MUTATIONS < refused < FUZZ_MUTATIONS


def test_reading_does_not_import_torch_or_mxnet():
    code = (
        "import sys\nfrom msposenet.weights.torch_file import read_state_dict\nread_state_dict(sys.argv[1])\n"
        "sys.exit(bool({'mxnet', 'torch'} & set(sys.modules)))"
    )
    assert run_python(code, FILES / "plain.pth").returncode == 0
