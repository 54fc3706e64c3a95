"""Leeds Sports Pose, original and Extended: boxes of the reference training, and errors for what is damaged."""

from __future__ import annotations

import json
import math
import os
import re
import time

import cv2
import numpy as np
import pytest
import scipy.io
from fuzz import mutate
from matlab_files import matlab, struct_array
from shared_data import golden, load_golden, sample

from msposenet.data.formats.lsp import read_lsp
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError
from msposenet.skeletons import LSP_14, MPII_16

NAN, INF = math.nan, math.inf
BOX_NOTE, AREA_NOTE = (
    "no box, taken from the labelled joints with 15% around",
    "no area, 0.53 of the box (w x h) taken",
)

# README of both sets
PUBLISHED = [
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
]  # fmt: skip


def people(count: int = 3) -> np.ndarray:
    """`joints` of the Extended set: all visible, within 40 .. 66 and 30 .. 82."""
    one = np.array([[40.0 + 2 * joint, 30.0 + 4 * joint, 1.0] for joint in range(14)])
    return np.stack([one] * count, axis=2)


@pytest.fixture
def read(tmp_path):
    def read(joints, skeleton=None, digits=5, pictures=3):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for number in range(1, pictures + 1):
            path = folder / f"im{number:0{digits}d}.jpg"
            if not path.exists():
                cv2.imwrite(str(path), np.zeros((100, 120, 3), np.uint8))
        path = tmp_path / "joints.mat"
        path.write_bytes(joints if isinstance(joints, bytes) else matlab({"joints": joints}))
        return read_lsp(path, folder, skeleton)

    return read


def test_sample_is_read_exactly():
    folder = sample("lsp_extended")
    records, report = read_lsp(folder / "joints.mat", folder / "images")
    raw = scipy.io.loadmat(folder / "joints.mat")["joints"]
    assert records.skeleton is LSP_14 and list(LSP_14.joints) == PUBLISHED
    assert len(records) == report.instances == report.images == 2700
    assert not report.filtered and not report.dropped and set(report.warnings) == {BOX_NOTE, AREA_NOTE}
    assert records.image_ids.tolist() == records.annotation_ids.tolist() == list(range(1, 2701))
    for place, joint in enumerate(PUBLISHED):
        x, y, visible = raw[place].astype(np.float32)
        found = records.keypoints[:, LSP_14.index(joint)].T
        np.testing.assert_array_equal(found, np.where(visible, [x, y, 2 * visible], 0))
    for row in (0, 999, 2699):
        assert os.path.basename(records.path(row)) == f"im{row + 1:05d}.jpg"
        height, width = cv2.imread(records.path(row), cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR).shape[:2]
        assert records.image_sizes[row].tolist() == [width, height]
    np.testing.assert_allclose(records.areas, 0.53 * records.boxes[:, 2] * records.boxes[:, 3], rtol=1e-6)


def test_boxes_and_joints_are_those_of_the_reference_training():
    expected = load_golden("lsp_reference/pred_val.npz")
    folder = sample("lsp_extended")
    records, _ = read_lsp(folder / "joints.mat", folder / "images")
    rows = expected["imgnum"] - 1
    np.testing.assert_array_equal(records.image_ids[rows], expected["imgnum"])
    np.testing.assert_array_equal(records.boxes[rows], expected["bbox"])
    # PCK@0.2 of its predictions, which are in the published order: no other joint has the same.
    truth, names = records.keypoints[rows], records.skeleton
    torso = truth[:, [names.index("left_shoulder"), names.index("right_hip")]]
    scored = (truth[..., 2] > 0) & (torso[..., 2] > 0).all(axis=1)[:, None]
    limit = 0.2 * np.linalg.norm(torso[:, 0, :2] - torso[:, 1, :2], axis=1)[:, None]
    order = [PUBLISHED.index(joint) for joint in names.joints]
    hits = np.linalg.norm(expected["preds"][:, order] - truth[..., :2], axis=2) <= limit
    pck = json.loads(golden("lsp_reference/results_val.json").read_text())["val"]["pck@0.2"]
    assert hits[scored].mean() == pytest.approx(pck["mean_over_labelled_joints"], abs=1e-6)
    for short, expected_pck in pck["per_joint"].items():
        joint = names.index({"head": "head_top"}.get(short, short.replace("l_", "left_").replace("r_", "right_")))
        assert hits[scored[:, joint], joint].mean() == pytest.approx(expected_pck, abs=1e-6), short


@pytest.mark.parametrize("compressed", [False, True])
def test_both_layouts(read, compressed):
    joints = people()
    joints[2, 2, 1] = 0
    joints[3] = [[-5, -5, -5], [70, 70, 70], [1, 1, 1]]
    extended, _ = read(matlab({"joints": joints}, compressed))
    assert extended.keypoints[1, 2].tolist() == [0, 0, 0]
    assert extended.keypoints[0, 2].tolist() == [44, 38, 2] and extended.keypoints[0, 3].tolist() == [-5, 70, 2]
    assert os.path.basename(extended.path(0)) == "im00001.jpg"
    original, report = read(matlab({"joints": joints.transpose(1, 0, 2)}, compressed), digits=4)
    assert os.path.basename(original.path(0)) == "im0001.jpg"
    # There 1 says that the joint is hidden, and every joint is annotated.
    np.testing.assert_array_equal(original.keypoints[..., :2], joints[:, :2].transpose(2, 0, 1))
    assert original.keypoints[1, 2, 2] == 2 and (np.delete(original.keypoints[1, :, 2], 2) == 1).all()
    assert set(report.warnings) == {BOX_NOTE, AREA_NOTE}


def test_box_is_the_visible_extent_cut_to_the_picture(read):
    joints = people()
    joints[13, :, 0] = [500, 500, 0]  # not visible
    joints[0, :2, 1] = [2, 3]
    joints[13, :2, 2] = [118, 98]
    records, _ = read(joints)
    # 24 x 48 px from (40, 30); 64 x 79 from (2, 3) to the joint (66, 82); 78 x 68 from (40, 30) to (118, 98)
    np.testing.assert_allclose(records.boxes[0], [40 - 3.6, 30 - 7.2, 24 * 1.3, 48 * 1.3])
    np.testing.assert_allclose(records.boxes[1], [0, 0, 66 + 0.15 * 64, 82 + 0.15 * 79])
    np.testing.assert_allclose(records.boxes[2], [40 - 11.7, 30 - 10.2, 119 - 28.3, 99 - 19.8])
    np.testing.assert_allclose(records.areas[0], 0.53 * 24 * 1.3 * 48 * 1.3, rtol=1e-6)


def test_people_without_a_picture_are_named(read, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "im00002.jpg").write_bytes(b"<html>not found</html>")
    (folder / "im00004.jpg").mkdir()
    records, report = read(people(5), pictures=3)
    assert records.annotation_ids.tolist() == [1, 3]
    assert report.dropped == {
        "missing picture": Tally(1, ("im00005.jpg",)),
        "damaged picture": Tally(2, ("im00002.jpg", "im00004.jpg")),
    }
    assert records.image_sizes.tolist() == [[120, 100], [0, 0], [120, 100], [0, 0], [0, 0]]
    with pytest.raises(DataError, match=r"joints.mat: 3 damaged instances .*missing picture: 1 .im00005.jpg.; damaged"):
        report.enforce()


def test_people_without_joints_or_extent(read):
    joints = people(4)
    joints[:, 2, 1] = 0
    joints[1:, 2, 2] = 0  # a single joint
    joints[:, :2, 3] -= 1000  # all outside
    records, report = read(joints, pictures=4)
    assert records.annotation_ids.tolist() == [1]
    assert report.filtered == {"no labelled keypoint": Tally(1, ("im00002.jpg",))}
    assert report.dropped == {"box without width or height": Tally(2, ("im00003.jpg", "im00004.jpg"))}


@pytest.mark.parametrize("placeholder", [0.0, -1.0, NAN, INF, 1e300])
def test_unlabelled_joints(read, placeholder):
    joints = people()
    joints[5, :, 0] = [placeholder, placeholder, 0]
    records, _ = read(joints)
    assert records.keypoints[0, 5].tolist() == [0, 0, 0]
    assert np.isfinite(records.boxes).all()


def test_one_person(read):
    assert len(read(people(1))[0]) == 1
    assert len(read(people(1)[..., 0])[0]) == 1


def test_given_skeleton_must_agree(read):
    assert read(people(), LSP_14)[0].skeleton is LSP_14
    with pytest.raises(DataError, match="are not the 16 joints of skeleton 'mpii16'"):
        read(people(), MPII_16)


def with_joint(place: int, *values: float) -> np.ndarray:
    joints = people()
    joints[place, :, 1] = values
    return joints


@pytest.mark.parametrize(
    "joints, message",
    [
        (b"", "no MATLAB file of version 5 to 7.2 (empty)"),
        (b"<html>", "no MATLAB file of version 5"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "a MATLAB 7.3 (HDF5) file, which is not read; in MATLAB load it"),
        (matlab({"joints": people()})[:-9], "cut off"),
        (matlab({"points": people()}), "no variable 'joints'; found 'points'; is it another kind of file?"),
        (matlab({"joints": "x"}), "'joints' is the text 'x'; 14 x 3 x N (LSP Extended) or 3 x 14 x N (LSP) numbers"),
        (matlab({"joints": struct_array([{"x": 1.0}])}), "'joints' is a struct of 'x'; 14 x 3 x N"),
        (people()[:13], "'joints' is 13 x 3 x 3 numbers; 14 x 3 x N"),
        (people()[:, :2], "'joints' is 14 x 2 x 3 numbers; 14 x 3 x N"),
        (people().transpose(2, 0, 1)[:2], "'joints' is 2 x 14 x 3 numbers; 14 x 3 x N"),
        (np.zeros((14, 3, 0)), "'joints' is empty; 14 x 3 x N"),
        (np.zeros((14, 3, 2, 2)), "'joints' is 14 x 3 x 2 x 2 numbers"),
        (with_joint(4, 5, 5, 2), "person im00002.jpg: third numbers [1.0, 1.0, 1.0, 1.0, 2.0,"),
        (with_joint(4, 5, 5, NAN), "person im00002.jpg: third numbers [1.0, 1.0, 1.0, 1.0, nan,"),
        (with_joint(4, 5, NAN, 1), "person im00002.jpg: joint 'left_knee' is at [5.0, nan]; pixels within 1,000,000"),
        (with_joint(4, -INF, 5, 1), "person im00002.jpg: joint 'left_knee' is at [-inf, 5.0]"),
        (with_joint(4, 2e6, 5, 1), "person im00002.jpg: joint 'left_knee' is at [2000000.0, 5.0]"),
    ],
    ids=range(17),
)
def test_refused(read, joints, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(joints)
    assert "joints.mat: " in str(error.value)


def test_nobody_to_train_on_is_an_error(tmp_path):
    (tmp_path / "joints.mat").write_bytes(matlab({"joints": people()}))
    with pytest.raises(
        DataError, match=r"no person with labelled keypoints .*missing picture: 3 \(im00001.jpg, im00002"
    ):
        read_lsp(tmp_path / "joints.mat", tmp_path / "absent")
    with pytest.raises(DataError, match="missing file"):
        read_lsp(tmp_path / "absent.mat", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_only_our_errors_escape_from_damaged_annotations(read, compressed):
    data, rng, refused = matlab({"joints": people()}, compressed), np.random.default_rng(41), 0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.process_time()
        try:
            records, report = read(damaged)
            records.check()
            report.lines()
        except PoseError:
            refused += 1
        assert time.process_time() - start < 2
    assert 300 < refused < 1000
