"""Batches from worker processes: the same as without, and a clear end when a worker is lost."""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
import pytest
from people_set import images_of, people_set, records_of

from msposenet.config import AugmentationConfig
from msposenet.data.loader import TrainingLoader
from msposenet.data.samples import TrainingSamples
from msposenet.errors import DataError, LoaderError
from msposenet.geometry import Convention


def samples(kind=TrainingSamples, **options):
    return kind(records_of(people_set()), (64, 64), Convention.UNBIASED, AugmentationConfig(), seed=1, **options)


def copies(batches):
    return [[np.array(a) for a in (b.crops, b.joints, b.weights, b.indices)] for b in batches]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(workers):
    with TrainingLoader(samples(), 4) as plain, TrainingLoader(samples(), 4, workers) as forked:
        for epoch, first in ((0, 0), (1, 2)):
            for wanted, found in zip(copies(plain.batches(epoch, first)), copies(forked.batches(epoch, first))):
                for a, b in zip(wanted, found):
                    np.testing.assert_array_equal(a, b)


def test_an_epoch_left_early_does_not_spill_into_the_next():
    with TrainingLoader(samples(), 4, workers=2) as loader:
        for batch in loader.batches(0):
            assert batch.indices.tolist() == loader.codes(0, 0).tolist()
            break
        found = [batch.indices.tolist() for batch in loader.batches(1)]
        assert found == [loader.codes(1, step).tolist() for step in range(loader.steps)]


def test_ranks_share_the_global_batches():
    loaders = [TrainingLoader(samples(), 8, rank=rank, ranks=2) for rank in range(2)]
    for step in range(loaders[0].steps):
        whole = np.concatenate([loader.codes(3, step) for loader in loaders])
        np.testing.assert_array_equal(whole, samples().order.batch(3, step, 8))


def test_a_sigterm_to_the_whole_group_leaves_the_workers_at_work():
    """The trainer answers it with a checkpoint, and may need a batch to get there."""
    with TrainingLoader(samples(), 4, workers=2) as loader:
        for worker in loader._workers:
            os.kill(worker._process.pid, signal.SIGTERM)
        assert len(list(loader.batches(0))) == loader.steps


class Dying(TrainingSamples):
    """Ends its process in the middle of a sample of epoch 1."""

    how = signal.SIGKILL

    def make(self, epoch, index, *arguments):
        if epoch == 1:
            if self.how == "hang":
                time.sleep(60)
            elif self.how == "raise":
                raise RuntimeError("a defect")
            os.kill(os.getpid(), self.how)
        return super().make(epoch, index, *arguments)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGKILL, r"died \(SIGKILL\) while on samples \d+"),
        ("raise", r"failed on samples \d+.*a defect"),
        ("hang", r"made no batch in 1 s while on samples \d+"),
    ],
    ids=str,
)
def test_a_lost_worker_names_what_it_was_making(how, message):
    dying = samples(Dying)
    dying.how = how
    start = time.monotonic()
    with TrainingLoader(dying, 4, workers=2, timeout=1.0) as loader:
        assert len(list(loader.batches(0))) == loader.steps
        pids = [worker._process.pid for worker in loader._workers]
        assert len(pids) == 2
        with pytest.raises(LoaderError) as caught:
            list(loader.batches(1))
    assert re.search(message, str(caught.value), re.DOTALL), caught.value
    assert caught.value.exit_code == 75
    assert time.monotonic() - start < 20
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """SIGKILL gives the parent no chance to tidy up; its workers notice by themselves."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        loader = TrainingLoader(samples(), 4, workers=2)
        os.write(writing, " ".join(str(worker._process.pid) for worker in loader._workers).encode())
        time.sleep(60)
        os._exit(0)
    pids = os.read(reading, 100).decode().split()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 15
    while any(_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.2)


def _running(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def damaged(tmp_path, number: int):
    """A copy of the set in which `number` pictures are text; returns its records."""
    import shutil

    from msposenet.data.formats.coco import read_coco

    source = people_set()
    images = tmp_path / "images"
    shutil.copytree(images_of(source), images)
    for path in sorted(images.iterdir())[:number]:
        path.write_text("<html>not found</html>")
    return read_coco(source, images)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_replaced_and_named(tmp_path, workers):
    records = damaged(tmp_path, 1)
    made = TrainingSamples(records, (64, 64), Convention.UNBIASED, None, seed=1)
    with TrainingLoader(made, 4, workers, max_bad_fraction=0.5) as loader:
        for batch in loader.batches(0):
            assert np.isfinite(batch.joints).all()
            assert not any(records.path(int(i)).endswith("000000000001.jpg") for i in batch.indices)
    assert len(loader.bad) == 1
    ((path, reason),) = loader.bad.items()
    assert path.endswith("000000000001.jpg") and "not an image" in reason


def test_a_picture_without_its_end_marker_is_used_and_named(tmp_path):
    records = damaged(tmp_path, 0)
    picture = sorted((tmp_path / "images").iterdir())[0]
    picture.write_bytes(picture.read_bytes()[:-2])
    made = TrainingSamples(records, (64, 64), Convention.UNBIASED, None, seed=1)
    with TrainingLoader(made, 1) as loader:
        assert len(list(loader.batches(0))) == len(records)
    assert not loader.bad and [path.endswith(picture.name) for path in loader.repaired] == [True]


def test_a_picture_of_another_size_than_annotated_is_damage(tmp_path):
    import cv2

    records = damaged(tmp_path, 0)
    picture = sorted((tmp_path / "images").iterdir())[0]
    image = cv2.imread(str(picture))
    cv2.imwrite(str(picture), cv2.resize(image, None, fx=2, fy=2))
    made = TrainingSamples(records, (64, 64), Convention.UNBIASED, None, seed=1)
    with TrainingLoader(made, 1, max_bad_fraction=0.5) as loader:
        list(loader.batches(0))
    (reason,) = loader.bad.values()
    assert f"is {2 * image.shape[1]} x {2 * image.shape[0]} px, the annotations say" in reason


def test_more_damage_than_allowed_stops(tmp_path):
    made = TrainingSamples(damaged(tmp_path, 3), (64, 64), Convention.UNBIASED, None, seed=1)
    with TrainingLoader(made, 4) as loader, pytest.raises(DataError, match=r"cannot be read.*max_bad_fraction"):
        list(loader.batches(0))


def test_an_empty_set_is_refused():
    empty = TrainingSamples(records_of(people_set()).select(np.array([], int)), (64, 64), Convention.UNBIASED, None, 0)
    with pytest.raises(DataError, match="no usable person"):
        TrainingLoader(empty, 4)
