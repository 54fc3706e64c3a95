"""PoseTrack's scores: poseval's numbers, its rules one by one, both forms of file, and poses in memory."""

from __future__ import annotations

import copy
import json

import cv2
import motmetrics
import numpy as np
import pytest
from posetrack_scene import all_in_form_18, arrays, head, perfect, point, scene, written
from shared_data import golden, sample

from msposenet.evaluation.posetrack import COLUMNS, evaluate_posetrack, evaluate_posetrack_poses
from msposenet.evaluation.posetrack_match import _inside
from msposenet.evaluation.posetrack_mot import Counts, _add
from msposenet.skeletons import COCO_17, POSETRACK_15, POSETRACK_17

pytestmark = pytest.mark.filterwarnings("error")
TRUTH, FOUND = scene()
COLUMN_NAMES = list(COLUMNS)


def score(folder, truth, found, **options):
    """Scores of file contents, by way of files."""
    number = len(list(folder.iterdir()))
    return evaluate_posetrack(
        written(folder / f"{number}_truth", truth), written(folder / f"{number}_found", found), **options
    )


def one_frame(*people, found=(), frames=2, **more):
    """A video of equal frames (two, since the last has no tracking figures), truth and predictions."""
    truth = [{"image": [{"name": f"{n}.jpg"}], "annorect": copy.deepcopy(list(people)), **more} for n in range(frames)]
    predicted = [{"image": [{"name": f"{n}.jpg"}], "annorect": copy.deepcopy(list(found))} for n in range(frames)]
    return {"a.json": {"annolist": truth}}, {"a.json": {"annolist": predicted}}


def person(track, points, at=(0.0, 0.0)):
    return {**head(np.array(at)), "track_id": [track], "annopoints": [{"point": points}]}


def pose(track, points):
    return {"track_id": [track], "annopoints": [{"point": points}]}


def points(xy, joints=range(15), **more):
    return [point(joint, np.array(xy) + 40 * joint, **more) for joint in joints]


def every_change(folder, change, truth=TRUTH, found=FOUND, **options):
    """Scores after `change(frame, rng)` on each frame of copies of both sides."""
    rng = np.random.default_rng(7)
    truth, found = copy.deepcopy(truth), copy.deepcopy(found)
    for files in (truth, found):
        for content in files.values():
            for frame in content["annolist"]:
                change(frame, rng)
    return score(folder, truth, found, **options)


@pytest.mark.parametrize(
    ("truth", "found"),
    [("sample_gt", "sample_pred_perfect"), ("sample_gt", "sample_pred_noisy"), ("synthetic_gt", "synthetic_pred")],
)
def test_poseval_numbers(truth, found):
    expected = json.loads(golden("evaluation/posetrack/expected.json").read_text())[found]
    with_tracks = "MOTA_table" in expected
    folder = golden("evaluation/posetrack")
    scores = evaluate_posetrack(folder / truth, folder / found, boxes="none", tracking=with_tracks)
    seen = {
        "AP_table": {column: scores.values[f"AP {column}"] for column in COLUMN_NAMES},
        "AP_per_joint": scores.per_joint["AP"],
        "precision_total": scores.per_joint["precision"]["Total"],
        "recall_total": scores.per_joint["recall"]["Total"],
    }
    if with_tracks:
        seen["MOTA_table"] = {column: scores.values[f"MOTA {column}"] for column in COLUMN_NAMES}
        for table in ("MOTA", "MOTP", "PRE", "REC"):
            seen[f"{table}_per_joint"] = scores.per_joint[table]
            seen[f"{table}_total"] = scores.per_joint[table]["Total"]
        named = [scores.values[name] for name in ("MOTP Total", "Precision", "Recall")]
        np.testing.assert_allclose(
            named, [expected[key] for key in ("MOTP_total", "PRE_total", "REC_total")], atol=1e-9
        )
    assert seen.keys() == expected.keys()
    for key, value in expected.items():
        for name, figure in value.items() if isinstance(value, dict) else [("", value)]:
            got = seen[key][name] if name else seen[key]
            assert abs(got - figure) < 1e-9, (key, name)
    assert scores.notes == ()
    assert scores.main == ("AP Total", scores.values["AP Total"] / 100)


def test_both_forms_and_poses_in_memory_score_alike(tmp_path):
    truth_18, found_18 = all_in_form_18(TRUTH), all_in_form_18(FOUND)
    by_files = score(tmp_path, TRUTH, FOUND)
    assert 5 < by_files.values["AP Total"] < 95
    assert 5 < by_files.values["MOTA Total"] < 95
    for truth, found in ((truth_18, found_18), (TRUTH, found_18), (truth_18, FOUND)):
        assert score(tmp_path, truth, found).values == by_files.values
    numbers, keypoints, tracks = arrays(FOUND)
    folder = written(tmp_path / "truth", TRUTH)
    in_memory = evaluate_posetrack_poses(folder, numbers, keypoints, track_ids=tracks, boxes="none")
    assert in_memory.values == by_files.values
    assert (in_memory.images, in_memory.people, in_memory.results) == (6, 18, 18)
    ids = [1000 * (1 + (number - 1) // 4) + (number - 1) % 4 for number in numbers]
    wide = np.zeros((len(keypoints), 17, 3))
    wide[:, [POSETRACK_17.index(joint) for joint in POSETRACK_15.joints]] = keypoints
    folder = written(tmp_path / "truth_18", truth_18)
    without_tracks = evaluate_posetrack_poses(folder, np.array(ids), wide, boxes="none", skeleton=POSETRACK_17)
    assert without_tracks.values == {name: value for name, value in by_files.values.items() if name.startswith("AP")}


def test_a_single_file_is_a_sequence_too(tmp_path):
    truth, found = written(tmp_path / "truth", TRUTH), written(tmp_path / "found", FOUND)
    name = "000002_video.json"
    (tmp_path / "mine.json").write_bytes((found / name).read_bytes())
    alone = evaluate_posetrack(truth / name, tmp_path / "mine.json")
    assert alone.values == evaluate_posetrack(truth / name, found).values
    assert alone.values == evaluate_posetrack(truth, found, image_ids=[5, 6, 7, 8]).values
    assert alone.images == 3


def test_videos_in_one_file_are_sequences_of_their_own(tmp_path):
    def merged(files):
        parts = list(files.values())
        whole = {"images": [], "annotations": [], "categories": parts[0]["categories"]}
        for number, part in enumerate(parts):
            whole["images"] += [{**image, "vid_id": f"00000{number}"} for image in part["images"]]
            whole["annotations"] += part["annotations"]
        return {"val.json": whole}

    truth, found = all_in_form_18(TRUTH), all_in_form_18(FOUND)
    assert score(tmp_path, merged(truth), merged(found)).values == score(tmp_path, truth, found).values


def test_perfect_predictions_are_hundred(tmp_path):
    scores = score(tmp_path, TRUTH, perfect(TRUTH))
    assert set(scores.values.values()) == {100.0}
    assert scores.notes == ()
    far = every_change(tmp_path, shift, found=perfect(TRUTH))
    assert {far.values[f"AP {column}"] for column in COLUMN_NAMES} == {0.0}
    assert far.values["MOTA Total"] == -100.0  # everything missed, and as much found where nothing is
    assert [note[:39] for note in far.notes] == ["no predicted joint is within half a head"[:39]]


def shift(frame, rng):
    for entry in frame["annorect"]:
        for joint in entry["annopoints"][0]["point"] if "x1" not in entry else ():
            joint["x"] = [joint["x"][0] + 3000]


def test_the_order_of_the_people_does_not_matter(tmp_path):
    def shuffle(frame, rng):
        rng.shuffle(frame["annorect"])

    before, after = score(tmp_path, TRUTH, FOUND), every_change(tmp_path, shuffle)
    assert before.values == pytest.approx(after.values, abs=1e-12)


def test_the_names_of_the_tracks_do_not_matter_but_their_order_does(tmp_path):
    def rename(frame, rng):
        for entry in frame["annorect"]:
            entry["track_id"] = [(entry["track_id"][0] * 7 + 3) % 9973]

    def mix(frame, rng):
        tracks = rng.permutation([entry["track_id"][0] for entry in frame["annorect"]])
        for entry, track in zip(frame["annorect"], tracks.tolist()):
            entry["track_id"] = [track]

    before = score(tmp_path, TRUTH, FOUND)
    assert every_change(tmp_path, rename).values == before.values
    mixed = every_change(tmp_path, mix)
    assert mixed.values["AP Total"] == before.values["AP Total"]
    assert mixed.values["MOTA Total"] < before.values["MOTA Total"]


def test_the_last_annotated_frame_counts_for_ap_only(tmp_path):
    found = copy.deepcopy(FOUND)
    for content in found.values():
        for entry in content["annolist"][3]["annorect"]:
            entry["annopoints"][0]["point"] = points((5000, 5000), score=[0.9])
    before, after = score(tmp_path, TRUTH, FOUND), score(tmp_path, TRUTH, found)
    assert after.values["AP Total"] < before.values["AP Total"]
    assert after.values["MOTA Total"] == before.values["MOTA Total"]


@pytest.mark.parametrize(("apart", "ap"), [(15.0, 100.0), (15.01, 0.0)])
def test_half_a_head_size_is_the_limit(tmp_path, apart, ap):
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(2, points((apart, 0), score=[1.0]))])
    assert score(tmp_path, truth, found).values["AP Total"] == ap


def test_one_pose_a_person_and_the_best_one(tmp_path):
    half = [*points((0, 0), range(8), score=[0.3]), *points((90, 0), range(8, 15), score=[0.3])]
    whole = points((2, 0), score=[0.2])
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(1, half), pose(2, whole)])
    scores = score(tmp_path, truth, found, tracking=False)
    # The worse pose ranks first and is false wherever it lies: precision 1/2 at recall 1.
    assert scores.values["AP Total"] == 50.0
    assert scores.per_joint["precision"]["Total"] == 50.0
    assert scores.per_joint["recall"]["Total"] == 100.0


def test_a_pose_between_two_people_goes_to_one(tmp_path):
    between = [*points((0, 0), range(10), score=[0.5]), *points((3000, 0), range(10, 15), score=[0.5])]
    listed = [person(1, points((0, 0))), person(2, points((3000, 0)), (3000, 0))]
    for people in (listed, listed[::-1]):
        table = score(tmp_path, *one_frame(*people, found=[pose(1, between)]), tracking=False).per_joint["AP"]
        assert [table[joint] for joint in POSETRACK_15.joints] == [50.0] * 10 + [0.0] * 5


def test_precision_has_an_envelope(tmp_path):
    near, far = points((0, 0), [0]), points((700, 0), [0])
    truth = [person(1, near), person(2, points((0, 500), [0]), (0, 500))]
    right = [
        pose(1, [{**near[0], "score": [0.9]}]),
        pose(2, [{**truth[1]["annopoints"][0]["point"][0], "score": [0.1]}]),
    ]
    wrong = pose(3, [{**far[0], "score": [0.5]}])
    truth, found = one_frame(*truth, found=[right[0], wrong, right[1]], frames=1)
    # Right, wrong, right of two: (1/2) x 1 + (1/2) x 2/3.
    assert score(tmp_path, truth, found, tracking=False).per_joint["AP"]["right_ankle"] == pytest.approx(100 * 5 / 6)


def test_a_predicted_joint_that_is_not_annotated_is_false(tmp_path):
    truth, found = one_frame(
        person(1, points((0, 0), range(14))),
        person(2, points((3000, 0)), (3000, 0)),
        found=[pose(1, points((0, 0), score=[0.9])), pose(2, points((3000, 0), score=[0.5]))],
    )
    scores = score(tmp_path, truth, found, tracking=False)
    assert scores.per_joint["AP"]["head_top"] == 50.0
    assert scores.per_joint["AP"]["nose"] == 100.0


def test_head_is_a_mean_of_three(tmp_path):
    lacking = [entry for entry in points((0, 0), score=[0.5]) if entry["id"] != [POSETRACK_15.index("nose")]]
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(1, lacking)])
    values = score(tmp_path, truth, found, tracking=False).values
    assert values["AP Head"] == pytest.approx(200 / 3)
    assert values["AP Total"] == pytest.approx(1400 / 15)
    assert {values[f"AP {column}"] for column in ("Shou", "Elb", "Wri", "Hip", "Knee", "Ankl")} == {100.0}


def test_ignore_regions_take_joints_from_both_sides(tmp_path):
    square = [{"x": [x], "y": [y]} for x, y in ((-5, -5), (95, -5), (95, 95), (-5, 95))]
    # Joints 0 to 2 lie inside; the second person does so as a whole, the pose far off with all but one joint.
    listed = [person(1, points((0, 0))), person(2, points((10, 0), range(2)))]
    wrong = [*points((5, 5), [0], score=[1.0]), *points((3000, 0), [5], score=[1.0])]
    found = [pose(1, points((0, 0), range(3, 15), score=[0.5])), pose(2, wrong)]
    truth, predicted = one_frame(*listed, found=found, ignore_regions=[{"point": square}])
    for files in ((truth, predicted), (all_in_form_18(truth), all_in_form_18(predicted))):
        scores = score(tmp_path, *files, tracking=False)
        assert (scores.people, scores.results) == (2, 4)
        assert {"right_ankle", "right_knee", "right_hip"}.isdisjoint(scores.per_joint["AP"])
        assert scores.per_joint["AP"]["left_ankle"] == 50.0
        assert scores.values["AP Total"] == pytest.approx(100 * 11.5 / 12)
        assert "annotated nowhere, left out of the figures: right_ankle, right_knee, right_hip" in scores.notes
    without = score(tmp_path, *one_frame(*listed, found=found), tracking=False)
    assert without.people == 4
    assert without.per_joint["AP"]["right_ankle"] == 50.0


def test_inside_a_polygon_as_opencv_has_it():
    rng = np.random.default_rng(2)
    on_border = 0
    for _ in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        radius = rng.uniform(3, 12, len(angles))
        polygon = (12 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).round()
        xy = np.stack(np.meshgrid(np.arange(25.0), np.arange(25.0)), -1).reshape(-1, 2)
        places = [cv2.pointPolygonTest(polygon.astype(np.float32), tuple(at), False) for at in xy.tolist()]
        assert _inside(xy, polygon).tolist() == [place > 0 for place in places]
        on_border += places.count(0)
    assert on_border > 300
    assert not _inside(xy, polygon[:2]).any()
    assert not _inside(xy, np.zeros((0, 2))).any()


def test_frames_without_people_are_not_scored(tmp_path):
    found = copy.deepcopy(FOUND)
    for content in found.values():
        assert content["annolist"][2]["annorect"]
        content["annolist"][2]["annorect"] = []
    before, after = score(tmp_path, TRUTH, FOUND), score(tmp_path, TRUTH, found)
    assert (after.values, after.images, after.notes) == (before.values, 6, ())


def test_missing_frames_count_as_empty(tmp_path):
    found = copy.deepcopy(FOUND)
    del found["000001_video.json"]["annolist"][0]
    emptied = copy.deepcopy(FOUND)
    emptied["000001_video.json"]["annolist"][0]["annorect"] = []
    before, missing = score(tmp_path, TRUTH, FOUND), score(tmp_path, TRUTH, found)
    assert missing.values == score(tmp_path, TRUTH, emptied).values
    assert missing.per_joint["recall"]["Total"] < before.per_joint["recall"]["Total"]
    assert missing.notes == (
        "1 of 6 annotated frames have nobody predicted",
        "tracking: 1 of 4 frames lack people on one side and count as poseval has it, one miss and one false positive "
        "each joint",
    )
    del found["000002_video.json"]
    half = score(tmp_path, TRUTH, found, tracking=False)
    assert half.notes[0] == "1 of 2 sequences have no prediction file"
    assert half.notes[1] == "4 of 6 annotated frames have nobody predicted"
    assert half.people == before.people


def test_a_frame_without_predictions_is_one_miss_and_one_false_positive(tmp_path):
    everybody = [person(track, points((2000 * track, 0)), (2000 * track, 0)) for track in range(4)]
    truth, found = one_frame(*everybody, found=[], frames=3)
    scores = score(tmp_path, truth, found)
    assert scores.values["AP Total"] == 0.0
    # Two frames count, each with 1 object, 1 miss, 1 false positive.
    assert scores.values["MOTA Total"] == -100.0
    assert (scores.values["Precision"], scores.values["Recall"], scores.values["MOTP Total"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("nobody", "form", "mota"),
    [("all ignored", 17, 0.0), ("all ignored", 18, 0.0), ("no points", 17, 0.0), ("no points", 18, -100.0)],
)
def test_a_frame_whose_people_are_gone_counts_like_one_without(tmp_path, nobody, form, mota):
    two = [pose(track, points((2000 * track, 0), score=[0.5])) for track in (1, 2)]
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(1, points((0, 0), score=[1.0]))], frames=3)
    found["a.json"]["annolist"][1]["annorect"] = two
    emptied = truth["a.json"]["annolist"][1]
    if nobody == "all ignored":
        square = [{"x": [x], "y": [y]} for x, y in ((-5, -5), (800, -5), (800, 800), (-5, 800))]
        emptied["ignore_regions"] = [{"point": square}]
    else:
        emptied["annorect"][0]["annopoints"] = [] if form == 17 else [{"point": []}]
    files = (truth, found) if form == 17 else (all_in_form_18(truth), all_in_form_18(found))
    scores = score(tmp_path, *files)
    # Frame 1 counts one missed and one false joint in place of the two false ones. In the 18 form somebody without
    # joints is still there: the two are simply false.
    assert scores.values["MOTA Total"] == mota
    assert (scores.people, scores.results) == (2, 4)


def test_motp_of_poseval_counts_distances_twice(tmp_path):
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(1, points((6, 0), score=[1.0]))])
    scores = score(tmp_path, truth, found)
    assert scores.values["MOTP Total"] == pytest.approx(100 * (1 - 2 * 0.2))
    assert scores.per_joint["MOTP of the matches"]["Total"] == pytest.approx(80.0)
    assert scores.values["MOTA Total"] == 100.0


def test_events_are_counted_as_motmetrics_does():
    rng = np.random.default_rng(0)
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for _ in range(40):
        objects, hypotheses = (rng.permutation(5)[: rng.integers(6)].tolist() for _ in range(2))
        distances = rng.random((len(objects), len(hypotheses)))
        accumulator.update(objects, hypotheses, np.where(distances < 0.5, distances, np.nan))
    counts = Counts.zero()
    _add(counts, 4, accumulator.events)
    names = {
        "misses": "num_misses",
        "switches": "num_switches",
        "false_positives": "num_false_positives",
        "objects": "num_objects",
        "detections": "num_detections",
    }
    wanted = motmetrics.metrics.create().compute(
        accumulator, metrics=[*names.values(), "motp"], return_dataframe=False, name="a"
    )
    assert min(wanted.values()) > 0
    for name, metric in names.items():
        assert getattr(counts, name)[4] == wanted[metric]
        assert getattr(counts, name).sum() == wanted[metric]
    assert counts.matched_distance[4] / counts.detections[4] == pytest.approx(wanted["motp"])


def test_joints_without_score_rank_last(tmp_path):
    listed = [pose(1, points((0, 0))), pose(2, points((3000, 0), score=[0.01]))]
    truth, found = one_frame(person(1, points((0, 0))), found=listed)
    scores = score(tmp_path, truth, found, tracking=False)
    assert scores.values["AP Total"] == 50.0
    assert scores.notes == ("30 predicted joints have no score and rank last",)
    in_18 = all_in_form_18(found)
    for entry in in_18["a.json"]["annotations"]:
        if entry["track_id"] == 1:
            del entry["scores"]
    assert score(tmp_path, all_in_form_18(truth), in_18, tracking=False).values == scores.values


def test_single_frames_have_no_tracking_figures(tmp_path):
    truth, found = one_frame(person(1, points((0, 0))), found=[pose(1, points((0, 0), score=[1.0]))], frames=1)
    scores = score(tmp_path, truth, found)
    assert not [name for name in scores.values if not name.startswith("AP")]
    assert scores.notes[0].startswith("no tracking figures: the last annotated frame")


def test_joints_the_model_lacks_are_left_out(tmp_path):
    folder = written(tmp_path / "truth", TRUTH)
    numbers, keypoints, tracks = arrays(FOUND)
    has = np.array([joint not in ("head_top", "neck", "left_ankle") for joint in POSETRACK_15.joints])
    spoiled = np.where(has[:, None], keypoints, np.nan)
    scores = evaluate_posetrack_poses(folder, numbers, spoiled, track_ids=tracks, boxes="none", predicted_joints=has)
    assert scores.per_joint["AP"].keys() == scores.per_joint["MOTA"].keys()
    assert len(scores.per_joint["AP"]) == 13  # with Total
    assert scores.values["AP Head"] == scores.per_joint["AP"]["nose"]
    assert scores.values["AP Ankl"] == scores.per_joint["AP"]["right_ankle"]
    assert scores.notes[0] == (
        "not predicted, left out of the figures: left_ankle, neck, head_top; this is not the official figure"
    )
    by_coco = np.zeros((len(keypoints), 17, 3))
    for joint in set(POSETRACK_15.joints) & set(COCO_17.joints):
        by_coco[:, COCO_17.index(joint)] = keypoints[:, POSETRACK_15.index(joint)]
    both = [evaluate_posetrack_poses(folder, numbers, by_coco, boxes="none", skeleton=COCO_17).per_joint["AP"]]
    has = np.array([joint not in ("head_top", "neck") for joint in POSETRACK_15.joints])
    both += [evaluate_posetrack_poses(folder, numbers, keypoints, boxes="none", predicted_joints=has).per_joint["AP"]]
    assert both[0] == both[1]


def test_predictions_of_other_joints_are_never_found(tmp_path):
    found = all_in_form_18(FOUND)
    for content in found.values():
        content["categories"][0]["keypoints"] = ["left_eye" if n == "nose" else n for n in POSETRACK_17.joints]
    scores = score(tmp_path, all_in_form_18(TRUTH), found, tracking=False)
    assert scores.per_joint["AP"]["nose"] == 0.0 < scores.per_joint["AP"]["neck"]
    assert scores.notes == ("the predictions have no nose: never found",)


def test_joints_are_posetracks_where_a_file_names_none(tmp_path):
    found = all_in_form_18(FOUND)
    for content in found.values():
        del content["categories"][0]["keypoints"]
    assert score(tmp_path, TRUTH, found, tracking=False).values == score(tmp_path, TRUTH, FOUND, tracking=False).values


def test_pose_scores_weigh_joint_scores(tmp_path):
    folder = written(tmp_path / "truth", one_frame(person(1, points((0, 0))))[0])
    good, bad = np.zeros((2, 15, 3))
    good[:] = [[40 * joint, 40 * joint, 0.5] for joint in range(15)]
    bad[:] = good + np.array([2000, 0, 0.4])
    frames, poses = [1, 1, 2, 2], np.stack([good, bad] * 2)
    assert evaluate_posetrack_poses(folder, frames, poses, boxes="none").values["AP Total"] == 50.0
    weighed = evaluate_posetrack_poses(folder, frames, poses, np.array([1, 0.5, 1, 0.5]), boxes="none")
    assert weighed.values["AP Total"] == 100.0
    only_first = evaluate_posetrack_poses(folder, frames, poses, boxes="none", only=[1])
    assert (only_first.images, only_first.results) == (1, 2)


def test_nobody_predicted_is_zero(tmp_path):
    folder = written(tmp_path / "truth", TRUTH)
    scores = evaluate_posetrack_poses(folder, [], np.zeros((0, 15, 3)), track_ids=[], boxes="none")
    assert scores.values["AP Total"] == 0.0
    assert scores.results == 0
    assert scores.notes[0] == "6 of 6 annotated frames have nobody predicted"


def test_the_released_annotations_find_themselves():
    """Their people carry an empty list of scores."""
    frames = sample("posetrack18/annotations/val")
    scores = evaluate_posetrack(frames, frames, boxes="the annotations' own")
    assert scores.values["AP Total"] == pytest.approx(100)
