"""What disks, kills and hands do to packs: packing goes on, reading names what is lost, nothing else escapes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import PROJECT, Hostile, own_disk, run_python
from fuzz import mutate
from packs import SHARDS, content, copied_pack, shared_pack
from people_set import images_of, people_set, tiny_config

from msposenet.data.loader import TrainingLoader
from msposenet.data.merging import read_training
from msposenet.data.pack_form import PEOPLE, PLACES, RECORDS, TABLE, Digest, arrays_bytes, read_table, table_bytes
from msposenet.data.packed import open_pack, read_pack, verify_pack
from msposenet.data.packing import write_pack
from msposenet.data.training_set import training_samples
from msposenet.errors import DataError, ImageError, LoaderError, PoseError
from msposenet.storage import FileDigest

CONFIG = tiny_config()
FUZZ_MUTATIONS = int(os.environ.get("MSPOSENET_FUZZ_MUTATIONS", "300"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def sign_table(folder: Path, body: dict) -> None:
    """Write pack.json with a checksum that fits."""
    body = {name: value for name, value in body.items() if name != "sha256"}
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()
    (folder / TABLE).write_text(json.dumps({**body, "sha256": sha256}))


def sign_people(folder: Path, data: bytes) -> None:
    """Write people.npz, and a pack.json that says it must be so."""
    (folder / PEOPLE).write_bytes(data)
    table = read_table(shared_pack())
    digest = Digest.of(FileDigest(hashlib.sha256(data).hexdigest(), len(data)))
    (folder / TABLE).write_bytes(table_bytes(table.model_copy(update={"people": digest})))


def read_whole(folder: Path) -> int:
    """Open the pack and read every patch; returns how many could not be."""
    pack, lost = open_pack(folder, CONFIG), 0
    for row in range(len(pack.records)):
        try:
            pack.pictures.open(row).view(1.0)
        except ImageError:
            lost += 1
    return lost


# Packing

PACKING = """
import sys, time
from pathlib import Path
from people_set import tiny_config
from msposenet.config import load_config
from msposenet.data import pack_shard
from msposenet.data.merging import read_training
from msposenet.data.packing import write_pack

make = pack_shard.PatchMaker.make
def slow(self, *arguments):
    time.sleep(0.1)
    return make(self, *arguments)
pack_shard.PatchMaker.make = slow
config = load_config(Path(sys.argv[1]))
write_pack(read_training(config), config, Path(sys.argv[2]), shards=int(sys.argv[3]), workers=int(sys.argv[4]))
"""


def packing(tmp_path: Path, folder: Path, workers: int) -> subprocess.Popen:
    """A process that packs slowly."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.dump())
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    command = [sys.executable, "-W", "ignore", "-c", PACKING, *map(str, (config, folder, SHARDS, workers))]
    # Into a file: the end of a pipe would not come as long as a worker outlives its parent.
    with open(tmp_path / "stderr.txt", "wb") as stderr:
        return subprocess.Popen(command, env=environment, stderr=stderr)


def wait_for(found, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def finished(folder: Path) -> int:
    """Shards of an unfinished pack that are written."""
    return len(list(folder.glob("*.part.npz")))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_packing_goes_on_where_it_was(tmp_path, workers):
    folder = tmp_path / "pack"
    for _ in range(2):
        before = finished(folder)
        process = packing(tmp_path, folder, workers)
        wait_for(lambda before=before: finished(folder) > before)
        crew = children(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL and len(crew) == workers
        try:
            wait_for(lambda crew=crew: not any(map(alive, crew)), 10)
        finally:
            for pid in filter(alive, crew):
                os.kill(pid, signal.SIGKILL)
        assert not (folder / TABLE).exists()
        with pytest.raises(DataError, match="the pack is not finished; give the command that began it again"):
            open_pack(folder, CONFIG)
    report = write_pack(read_training(CONFIG), CONFIG, folder, shards=SHARDS, workers=0)
    assert 2 <= report.kept < SHARDS
    assert content(folder) == content(shared_pack()), "differs from what an uninterrupted packing writes"


@pytest.mark.slow
def test_shards_damaged_before_going_on_are_written_again(tmp_path):
    folder = tmp_path / "pack"
    process = packing(tmp_path, folder, 0)
    wait_for(lambda: finished(folder) >= 3)
    process.kill()
    process.wait()
    parts = sorted(path.name[:11] for path in folder.glob("*.part.npz"))
    flip(folder / f"{parts[0]}.rec", 100)
    (folder / f"{parts[1]}.part.npz").write_bytes(b"PK")
    report = write_pack(read_training(CONFIG), CONFIG, folder, shards=SHARDS, workers=0)
    assert report.kept == len(parts) - 2
    assert content(folder) == content(shared_pack())


@pytest.mark.slow
def test_a_lost_worker_is_named(tmp_path):
    folder = tmp_path / "pack"
    process = packing(tmp_path, folder, 2)
    wait_for(lambda: finished(folder) >= 1)
    crew = children(process.pid)
    os.kill(crew[0], signal.SIGKILL)
    process.wait(timeout=20)
    last = (tmp_path / "stderr.txt").read_text().strip().splitlines()[-1]
    assert LoaderError.__name__ in last and f"packing worker {crew[0]} died (SIGKILL) on shard" in last
    assert "Give the same command again" in last
    assert not any(map(alive, crew))
    assert not list(folder.glob(".tmp-*"))


def damaged_config(tmp_path, damage, **data):
    """The people with some pictures damaged, allowed for; returns the configuration and the pictures."""
    images = tmp_path / "images"
    shutil.copytree(images_of(people_set()), images)
    pictures = sorted(images.iterdir())
    damage(pictures)
    train = {"annotations": str(people_set()), "images": str(images)}
    return tiny_config(data={"train": train, **data}), pictures


def test_damaged_pictures_are_left_out_and_named(tmp_path):
    def damage(pictures):
        pictures[0].write_text("<html>not found</html>")
        pictures[1].write_bytes(pictures[1].read_bytes()[:-400])
        pictures[2].write_bytes(pictures[2].read_bytes()[:-2])

    config, pictures = damaged_config(tmp_path, damage, max_bad_fraction=0.2)
    records = read_training(config)
    folder = tmp_path / "pack"
    report = write_pack(records, config, folder, shards=SHARDS, workers=2)
    lost = [row for row in range(len(records)) if records.path(row) in map(str, pictures[:2])]
    table = report.table
    assert table.skipped.persons == len(lost) and table.skipped.pictures == 2 and report.repaired == 1
    lines = "\n".join(report.lines())
    assert "not an image" in lines and "truncated" in lines and "damaged but whole" in lines
    said = []
    pack = open_pack(folder, config, said.append)
    assert sorted(pack.records.annotation_ids) == sorted(np.delete(records.annotation_ids, lost))
    assert f"{len(lost)} on damaged pictures were left out" in said[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_damage_than_allowed_stops_and_repaired_pictures_are_packed(tmp_path, workers):
    config, pictures = damaged_config(
        tmp_path, lambda pictures: [path.write_text("no") for path in pictures[:3]], max_bad_fraction=0.08
    )  # two, so that shards are finished without their persons
    records, folder = read_training(config), tmp_path / "pack"
    with pytest.raises(DataError, match=r"cannot be read \(.*not an image.*raise data\.max_bad_fraction"):
        write_pack(records, config, folder, shards=SHARDS, workers=workers)
    assert not (folder / TABLE).exists() and not list(folder.glob(".tmp-*"))
    for path in pictures[:3]:
        shutil.copy(images_of(people_set()) / path.name, path)
    report = write_pack(records, config, folder, shards=SHARDS, workers=workers)
    assert report.table.instances == len(records) and not report.table.skipped.persons


def test_no_readable_picture_at_all_is_refused(tmp_path):
    config, _ = damaged_config(
        tmp_path, lambda pictures: [path.write_text("no") for path in pictures], max_bad_fraction=1.0
    )
    with pytest.raises(DataError, match="no picture can be read"):
        write_pack(read_training(config), config, tmp_path / "pack", workers=0)


def test_a_box_that_misses_its_picture_is_found_when_the_size_is_first_known(tmp_path):
    records = read_training(CONFIG)
    boxes = records.boxes.copy()
    boxes[3] = [5000, 5000, 20, 20]
    unknown = replace(records, boxes=boxes, image_sizes=np.zeros_like(records.image_sizes))
    config = tiny_config(data={"max_bad_fraction": 0.1})
    report = write_pack(unknown, config, tmp_path / "pack", workers=0)
    assert report.table.skipped.persons == 1 and "lies outside the picture" in report.table.skipped.first[0]


SMALL_DISK = """
import sys
from pathlib import Path
from msposenet.config import load_config
from msposenet.data.merging import read_training
from msposenet.data.packing import write_pack
from msposenet.errors import StorageError
config = load_config(Path(sys.argv[1]))
try:
    write_pack(read_training(config), config, Path(sys.argv[2]) / "pack", quality=0, oversample=64, workers=2)
except StorageError as error:
    print("StorageError", error)
"""


def test_a_disk_too_small_is_seen_before_the_work(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.dump())
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = own_disk(disk, "size=512k")
    done = run_python(SMALL_DISK, tmp_path / "config.yaml", disk, prefix=prefix)
    assert "StorageError" in done.stdout and "will be needed" in done.stdout, done.stderr


def test_a_disk_that_refuses_midway_leaves_no_half_file(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.dump())
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n" + SMALL_DISK
    done = run_python(limited, tmp_path / "config.yaml", tmp_path)
    assert "StorageError" in done.stdout and "exceed the allowed size" in done.stdout, done.stderr
    assert not [path for path in content(tmp_path / "pack") if path.startswith(".tmp-") or path == TABLE]


# Reading


def damage_record(folder: Path, row: int) -> Path:
    """Flip a bit in the middle of the record of instance `row`; returns the shard's file."""
    pack = open_pack(folder, CONFIG)
    shard = next(number for number, rows in enumerate(pack.pictures.shards) if row in rows)
    offset, length = (int(read_pack(folder)[1][name][row]) for name in ("offsets", "lengths"))
    path = folder / f"shard-{shard:05d}.rec"
    flip(path, offset + length // 2)
    return path


def test_a_flipped_bit_is_named_and_the_loader_goes_on(tmp_path):
    folder = copied_pack(tmp_path)
    shard = damage_record(folder, 11)
    config = tiny_config(data={"pack": str(folder), "max_bad_fraction": 0.1})
    pack = open_pack(folder, config)
    annotation = pack.records.annotation_ids[11]
    named = rf"{shard.name}: instance 11 \(annotation {annotation} of .*jpg\): the record is damaged"
    with pytest.raises(ImageError, match=named):
        pack.pictures.open(11)
    with TrainingLoader(training_samples(config), 4, workers=2, max_bad_fraction=0.1) as loader:
        for epoch in range(2):
            for batch in loader.batches(epoch):
                assert np.isfinite(batch.joints).all() and batch.crops.any(axis=(1, 2, 3)).all()
                assert 11 not in batch.indices
    assert list(loader.bad) == [pack.records.path(11)] and "is damaged" in loader.bad[pack.records.path(11)]
    with pytest.raises(DataError, match=rf"{shard.name}: its SHA-256 differs.*1 \(11: annotation {annotation} of"):
        verify_pack(folder)


def test_damage_beyond_the_limit_stops_the_loader(tmp_path):
    folder = copied_pack(tmp_path)
    damage_record(folder, 4)
    samples = training_samples(tiny_config(data={"pack": str(folder)}))
    stopped = pytest.raises(DataError, match=r"cannot be read.*the record is damaged")
    with TrainingLoader(samples, 4) as loader, stopped:
        list(loader.batches(0))


def test_a_shard_cut_short_is_named(tmp_path):
    folder = copied_pack(tmp_path)
    pack = open_pack(folder, CONFIG)
    path = folder / "shard-00002.rec"
    size = path.stat().st_size
    os.truncate(path, size - 9)
    last = int(pack.pictures.shards[2][-1])
    with pytest.raises(ImageError, match=rf"shard-00002\.rec: instance {last} .*: the record is cut off"):
        pack.pictures.open(last)
    with pytest.raises(DataError, match=rf"shard-00002\.rec: {size - 9:,} bytes, it must be {size:,}"):
        open_pack(folder, CONFIG)
    path.unlink()
    pack.pictures.close()
    with pytest.raises(ImageError, match=r"shard-00002\.rec: instance .*: cannot be read"):
        pack.pictures.open(last)
    with pytest.raises(DataError, match=r"shard-00002\.rec: no such file"):
        open_pack(folder, CONFIG)


def test_a_record_that_is_none_is_named(tmp_path):
    """Its CRC-32 fits, so somebody wrote it so."""
    folder = copied_pack(tmp_path)
    arrays = {name: column.copy() for name, column in read_pack(folder)[1].items()}
    path = folder / "shard-00000.rec"
    data = bytearray(path.read_bytes())
    offset, length = (int(arrays[name][0]) for name in ("offsets", "lengths"))
    data[offset] ^= 1
    path.write_bytes(data)
    arrays["crcs"][0] = zlib.crc32(bytes(data[offset : offset + length]))
    sign_people(folder, arrays_bytes(arrays))
    with pytest.raises(ImageError, match=r"shard-00000\.rec: instance 0.*no RecordIO record"):
        open_pack(folder, CONFIG).pictures.open(0).view(1.0)


def test_verify_finds_a_damaged_index(tmp_path):
    folder = copied_pack(tmp_path)
    (folder / "shard-00001.idx").write_bytes((folder / "shard-00001.idx").read_bytes()[:-2] + b"9\n")
    assert read_whole(folder) == 0
    with pytest.raises(DataError, match=r"shard-00001\.idx: its SHA-256 differs, instances damaged: 0"):
        verify_pack(folder)


EDITS = {
    "missing": (lambda data: None, "no such file"),
    "empty": (lambda data: b"", "no JSON"),
    "cut": (lambda data: data[:-30], "no JSON"),
    "a list": (lambda data: b"[1, 2]", "not the table of a pack"),
    "something else": (lambda data: b"{}", "not the table of a pack"),
    "a figure changed": (lambda data: data.replace(b'"quality": 95', b'"quality": 85'), "was edited"),
    "an unknown key": (lambda data: data.replace(b'"settings"', b'"Settings"'), "was edited"),
    "later": (lambda data: data.replace(b'"version": 1', b'"version": 2'), "of version 2, read is version 1"),
    "not ASCII": (lambda data: data.replace(b"coco17", "köko17".encode()), "no JSON"),
    "deep": (lambda data: b"[" * 100_000, "no JSON"),
    "huge": (lambda data: b" " * (1 << 24) + data, "which no pack's table is"),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_a_damaged_table_is_refused(tmp_path, edit, message):
    folder = copied_pack(tmp_path)
    data = edit((folder / TABLE).read_bytes())
    if data is None:
        (folder / TABLE).unlink()
    else:
        (folder / TABLE).write_bytes(data)
    with pytest.raises(DataError, match=rf"pack\.json: .*{message}"):
        open_pack(folder, CONFIG)


TABLES = {
    "no shard": (lambda body: body.update(shards=[]), "holds no person"),
    "a shard too many": (lambda body: body["shards"].append(body["shards"][0]), r"shard-00005\.rec: no such file"),
    "other counts": (lambda body: body["shards"][0].update(instances=10**15), "image_index is of shape"),
    "a count that no file holds": (lambda body: body["shards"][0].update(instances=10**30), r"shards\.0\.instances"),
    "a size that no file has": (lambda body: body["people"].update(size=10**30), r"people\.size"),
    "negative count": (lambda body: body["shards"][0].update(instances=-1), r"shards\.0\.instances"),
    "unknown set": (lambda body: [shard.update(origin=1) for shard in body["shards"]], "origin_index of 29"),
    "skeleton against itself": (lambda body: body["skeleton"].update(flip_pairs=[["nose", "left_eye"]]), "skeleton"),
    "text for a number": (lambda body: body["settings"].update(enlarge="wide"), r"settings\.enlarge"),
    "unknown key": (lambda body: body.update(colour="red"), "colour"),
    "a lone surrogate": (lambda body: body["sources"][0].update(title="\ud800"), r"pack\.json"),
}


@pytest.mark.parametrize(("change", "message"), TABLES.values(), ids=TABLES)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, change, message):
    folder = copied_pack(tmp_path)
    body = json.loads((folder / TABLE).read_bytes())
    change(body)
    sign_table(folder, body)
    with pytest.raises(DataError, match=message):
        open_pack(folder, CONFIG)


def changed(name: str, value, at=3):
    def change(arrays: dict) -> None:
        arrays[name][at] = value

    return change


COLUMNS = {
    "offset behind the end": (changed("offsets", 1 << 40), "offsets of 1 instances do not fit, first 3"),
    "negative offset": (changed("offsets", -4), "offsets of 1"),
    "offset that overflows": (changed("offsets", np.iinfo(np.int64).max), "offsets of 1"),
    "empty record": (changed("lengths", 0), "offsets of 1"),
    "factor 0": (changed("factors", 0.0), "factors of 1"),
    "factor NaN": (changed("factors", np.nan), "factors of 1"),
    "corner outside the picture": (changed("corners", 5000), "corners of 1"),
    "picture of no size": (changed("image_sizes", 0), "image_sizes of"),
    "picture out of the table": (changed("image_index", 10**6), "image_index leads out"),
    "negative picture": (changed("image_index", -1), "image_index leads out"),
    "another set": (changed("origin_index", 7), "origin_index of 1"),
    "NaN box": (changed("boxes", np.nan), "boxes is not finite"),
    "visibility 3": (changed("keypoints", 3.0), "visibility is not 0, 1 or 2"),
    "a column too short": (lambda arrays: arrays.update(areas=arrays["areas"][1:]), "areas is float32 of shape"),
    "a column less": (lambda arrays: arrays.pop("areas"), "is damaged"),
    "a column more": (lambda arrays: arrays.update(more=np.zeros(3)), "is damaged"),
    "another type": (lambda arrays: arrays.update(boxes=arrays["boxes"].astype(np.float32)), "<f8 wanted"),
    "text for paths": (lambda arrays: arrays.update(image_paths=arrays["image_paths"].astype(str)), "S wanted"),
    "other axes": (lambda arrays: arrays.update(offsets=arrays["offsets"][None]), "offsets is of shape"),
}


@pytest.mark.parametrize(("change", "message"), COLUMNS.values(), ids=COLUMNS)
def test_columns_that_do_not_fit_are_refused(tmp_path, change, message):
    folder = copied_pack(tmp_path)
    arrays = {name: column.copy() for name, column in read_pack(folder)[1].items()}
    assert sorted(arrays) == sorted({**RECORDS, **PLACES})
    change(arrays)
    sign_people(folder, arrays_bytes(arrays))
    with pytest.raises(DataError, match=rf"people\.npz: .*{message}.*make the pack again"):
        open_pack(folder, CONFIG)


def test_people_of_another_pack_are_refused(tmp_path):
    folder = copied_pack(tmp_path)
    flip(folder / PEOPLE, 3000)
    with pytest.raises(DataError, match=r"people\.npz: is not what was packed \(its SHA-256 differs\)"):
        open_pack(folder, CONFIG)


def npz_with(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in (*RECORDS, *PLACES):
            archive.writestr(f"{name}.npy", member)
    return buffer.getvalue()


def test_code_in_a_pack_never_runs(tmp_path):
    folder, target = copied_pack(tmp_path), tmp_path / "target"
    harmful = io.BytesIO()
    np.save(harmful, np.array([Hostile(target)] * 29, dtype=object), allow_pickle=True)
    for data in (npz_with(harmful.getvalue()), npz_with(pickle.dumps(Hostile(target))), pickle.dumps(Hostile(target))):
        sign_people(folder, data)
        with pytest.raises(DataError, match=r"people\.npz: is damaged"):
            open_pack(folder, CONFIG)
        assert not target.exists()


HEADER = "{'descr': '<i8', 'fortran_order': False, 'shape': (%s,), }"


@pytest.mark.parametrize("shape", ["10**12", "1000000000000", "1000000000, 1000000000", "-5"])
def test_promises_of_huge_arrays_are_not_believed(tmp_path, shape):
    folder, text = copied_pack(tmp_path), HEADER % shape
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)
    sign_people(folder, npz_with(member))
    tracemalloc.start()
    with pytest.raises(DataError, match="is damaged"):
        open_pack(folder, CONFIG)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", [TABLE, PEOPLE])
@pytest.mark.parametrize("signed", [False, True], ids=["as it is", "with checksums that fit"])
def test_random_damage_raises_nothing_but_pose_errors(tmp_path, name, signed):
    folder = copied_pack(tmp_path)
    whole = (folder / name).read_bytes()
    refused = 0
    for seed in range(FUZZ_MUTATIONS):
        data = mutate(whole, np.random.default_rng(seed))
        if signed and name == PEOPLE:
            sign_people(folder, data)
        else:
            (folder / name).write_bytes(data)
        if signed and name == TABLE:
            try:
                body = json.loads(data.decode("ascii"))
                sign_table(folder, body)
            except (ValueError, AttributeError, RecursionError):
                continue
        start = time.monotonic()
        try:
            read_whole(folder)
        except PoseError as error:
            refused += 1
            assert str(folder) in str(error), f"seed {seed}: {error}"
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        assert time.monotonic() - start < 2, f"seed {seed}"
    assert refused > FUZZ_MUTATIONS / (10 if signed else 2)


def test_random_damage_of_a_shard_costs_its_persons_alone(tmp_path):
    folder = copied_pack(tmp_path)
    path = folder / "shard-00001.rec"
    whole = path.read_bytes()
    here = len(open_pack(folder, CONFIG).pictures.shards[1])
    for seed in range(60):
        data = bytearray(whole)
        for place in np.random.default_rng(seed).integers(len(data), size=3):
            data[place] ^= 16
        path.write_bytes(data)
        assert 1 <= read_whole(folder) <= min(3, here), f"seed {seed}"
