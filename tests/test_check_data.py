"""`msposenet check-data`: every kind of damage found and named, exit codes, nothing of the user's changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from damaged_set import PICTURES, config_file, copy_set, damaged_set, edit, source
from runner import cli_runner
from scipy.io import savemat

from msposenet.cli.check_data import check_data
from msposenet.config import load_config
from msposenet.data.doctor import diagnose
from msposenet.errors import ConfigError
from msposenet.progress import Reporter

COMMAND = [sys.executable, "-m", "msposenet", "check-data"]


def check(*arguments, cwd):
    """The command as a user runs it."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120, stdin=subprocess.DEVNULL
    )


def check_here(*arguments):
    """The command without another process, which takes seconds to start."""
    app = typer.Typer()
    app.command()(check_data)
    return cli_runner().invoke(app, list(map(str, arguments)))


def diagnosis_of(path: Path, workers: int = 2):
    return diagnose(load_config(path), workers, Reporter(quiet=True))


def tree(folder: Path) -> dict[str, tuple]:
    """Content and times of all that lies in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The command's answer on a damaged and a sound set, with the report and the damaged pictures."""
    folder = tmp_path_factory.mktemp("damaged")
    annotations, done = damaged_set(folder / "bad")
    sound = copy_set(folder / "good", seed=8)
    config_file(folder, [source(annotations, name="bad")], [source(sound, name="good")])
    before = tree(folder / "bad")
    answer = check("config.yaml", "--samples", 2, "--json", cwd=folder)
    report = json.loads((folder / "check-data-config" / "report.json").read_text())
    return {"answer": answer, "report": report, "done": done, "before": before, "folder": folder}


@pytest.mark.parametrize("what", PICTURES)
def test_every_damaged_picture_is_found_and_named(damaged, what):
    _, kind, reason = PICTURES[what]
    found = [item for item in damaged["report"]["sets"][0]["damage"] if item["file"] == str(damaged["done"][what])]
    assert len(found) == 1
    assert found[0]["kind"] == kind and reason in found[0]["reason"]
    assert found[0]["file"] not in found[0]["reason"], "the file is named once"


def test_nothing_else_is_damaged(damaged):
    bad, good = damaged["report"]["sets"]
    assert bad["damaged"] == len(PICTURES) == len(bad["damage"]) == bad["pictures_unusable"]
    assert good["damaged"] == 0 and good["warnings"] == []
    whole, stray = bad["damaged_but_whole"]
    assert whole[0] == str(damaged["done"]["no end marker"]) and "without its end marker" in whole[1]
    assert stray[0] == str(damaged["done"]["stray bytes"]) and "extraneous bytes" in stray[1]
    assert any("such as" in warning and whole[0] in warning for warning in bad["warnings"])


def test_the_command_answers_with_1_and_a_summary(damaged):
    answer = damaged["answer"]
    assert answer.returncode == 1, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["damaged"] == len(PICTURES) and summary["report"].endswith("index.html")
    assert [part["name"] for part in summary["sets"]] == ["bad", "good"]
    assert summary["sets"][0]["damage_kinds"]["truncated picture"] == 1
    assert "damage" not in summary["sets"][0], "the list may be long"
    assert any(warning.startswith("training would stop: ") for warning in summary["warnings"])
    assert "wrote check-data-config" in answer.stderr and "Traceback" not in answer.stderr
    assert "Corrupt" not in answer.stderr, "what the decoder writes belongs into the report"


def test_nothing_of_the_user_is_changed(damaged):
    assert tree(damaged["folder"] / "bad") == damaged["before"]


def test_a_read_only_disk_is_enough(tmp_path):
    annotations, _ = damaged_set(tmp_path / "data")
    path = config_file(tmp_path, [source(annotations)])
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, mount, annotations.parent], timeout=60).returncode:
        pytest.skip("this machine lets no user mount a file system")
    before = tree(tmp_path / "data")
    done = subprocess.run(
        [*prefix, f'{mount} && exec "$@"', annotations.parent, *COMMAND, path, "--samples", "1"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "check-data-config" / "index.html").exists()
    assert tree(tmp_path / "data") == before


def test_the_number_of_workers_changes_nothing(tmp_path):
    annotations, _ = damaged_set(tmp_path / "set")
    path = config_file(tmp_path, [source(annotations)])
    one, three = diagnosis_of(path, 1), diagnosis_of(path, 3)
    assert one.as_dict(items=True) == three.as_dict(items=True)
    assert one.damaged == len(PICTURES)


def test_clean_set_and_terminal_output(tmp_path):
    path = config_file(tmp_path, [source(copy_set(tmp_path / "set"))])
    done = check_here(path, "--out", tmp_path / "page", "--samples", 1)
    assert done.exit_code == 0
    assert "persons" in done.stdout and done.stdout.rstrip().endswith("0 damaged, 0 warnings")
    assert (tmp_path / "page" / "index.html").stat().st_size > 5000


def annotation(content, **changes):
    content["annotations"][3].update(changes)


ANNOTATIONS = {
    "box outside": (lambda content: annotation(content, bbox=[5000, 5000, 40, 40]), "box outside the image"),
    "box without height": (lambda content: annotation(content, bbox=[5, 5, 40, 0]), "box without width or height"),
    "NaN": (lambda content: annotation(content, bbox=[float("nan"), 5, 40, 40]), "annotations refused"),
    "too few numbers": (lambda content: annotation(content, keypoints=[1, 2, 2]), "annotations refused"),
    "repeated id": (lambda content: annotation(content, id=content["annotations"][0]["id"]), "annotations refused"),
    "no categories": (lambda content: content.pop("categories"), "annotations refused"),
}


@pytest.mark.parametrize(("change", "kind"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_damaged_annotations_are_a_finding_of_their_set(change, kind, tmp_path):
    annotations = copy_set(tmp_path / "bad")
    name = str(json.loads(annotations.read_text())["annotations"][3]["id"])
    edit(annotations, change)
    found = diagnosis_of(
        config_file(tmp_path, [source(annotations, name="bad")], [source(copy_set(tmp_path / "good"))])
    )
    bad, good = found.sets
    assert bad.damage_kinds() == {kind: 1}
    assert bad.damage[0].file == str(annotations)
    assert name in bad.damage[0].item + bad.damage[0].reason or kind == "annotations refused"
    assert good.damaged == 0 and good.figures["pictures"] == 24, "the other set is looked at all the same"
    assert found.damaged == 1


def test_all_of_many_damaged_annotations_count(tmp_path):
    annotations = copy_set(tmp_path / "set")

    def change(content):
        for person in content["annotations"][:8]:
            person["bbox"][2] = 0

    edit(annotations, change)
    found = diagnosis_of(config_file(tmp_path, [source(annotations)]))
    assert found.damaged == 8 == sum(item.count for item in found.sets[0].damage)
    assert any(warning.startswith("training refuses the set: ") for warning in found.sets[0].warnings)


def test_fifty_are_shown_and_all_are_in_the_report(tmp_path):
    annotations = copy_set(tmp_path / "set")
    images = [{"id": 900 + n, "file_name": f"gone{n:02d}.jpg", "width": 9, "height": 9} for n in range(60)]
    edit(annotations, lambda content: content["images"].extend(images))
    done = check_here(config_file(tmp_path, [source(annotations)]), "--out", tmp_path / "page", "--samples", 0)
    assert done.exit_code == 1
    page, report = ((tmp_path / "page" / name).read_text() for name in ("index.html", "report.json"))
    for text in (page, done.stdout):
        assert [part in text for part in ("gone49.jpg", "gone50.jpg", "and 10 more")] == [True, False, True]
    assert len(json.loads(report)["sets"][0]["damage"]) == 60


def test_cut_annotations_through_the_command(tmp_path):
    annotations = copy_set(tmp_path / "set")
    annotations.write_bytes(annotations.read_bytes()[:-200])
    done = check_here(config_file(tmp_path, [source(annotations)]), "--out", tmp_path / "page")
    assert done.exit_code == 1 and "cut off" in done.stdout
    assert "cut off" in (tmp_path / "page" / "index.html").read_text()


def test_boxes_are_held_against_pictures_whose_size_nobody_wrote_down(tmp_path):
    """MPII says no picture sizes: that a box misses its picture, or reaches out of it, only the picture tells."""
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((100, 120, 3), np.uint8))
    persons = [("a", (60, 50), 0.3), ("a", (900, 50), 0.1), ("a", (115, 50), 0.3), ("b", (9, 9), 0.2)]
    entries = [
        {"image": f"{name}.jpg", "center": at, "scale": scale, "joints": [list(at)] * 16, "joints_vis": [1] * 16}
        for name, at, scale in persons  # within, outside, reaching out, on a picture that is cut
    ]
    (tmp_path / "mpii.json").write_text(json.dumps(entries))
    mpii = {"format": "mpii", "annotations": str(tmp_path / "mpii.json"), "images": str(tmp_path)}
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    [checked] = diagnosis_of(config_file(tmp_path, [mpii])).sets
    cut, damage = checked.damage
    assert cut.file == str(tmp_path / "b.jpg") and cut.kind == "truncated picture"
    assert checked.usable.tolist() == [True, False]
    assert damage.item == "annotation 2" and damage.kind == "box outside the picture"
    assert damage.file == str(tmp_path / "a.jpg") and "120 x 100" in damage.reason
    assert checked.figures["boxes_reaching_out"] == 1
    assert checked.figures["joints_outside_picture"] == 16, "the joints of the second person"


def test_a_reader_that_opens_pictures_counts_none_twice(tmp_path):
    rng = np.random.default_rng(0)
    joints = np.concatenate([rng.uniform(20, 80, (14, 2, 4)), np.ones((14, 1, 4))], axis=1)
    savemat(tmp_path / "joints.mat", {"joints": joints})
    for number in (1, 2, 4):
        cv2.imwrite(str(tmp_path / f"im{number:05d}.jpg"), np.zeros((100, 100, 3), np.uint8))
    (tmp_path / "im00002.jpg").write_text("no picture")
    lsp = {"format": "lsp", "annotations": str(tmp_path / "joints.mat"), "images": str(tmp_path)}
    [checked] = diagnosis_of(config_file(tmp_path, [lsp])).sets
    assert checked.damage_kinds() == {"not an image": 1, "missing picture": 1}
    assert [Path(item.file).name for item in checked.damage] == ["im00002.jpg", "im00003.jpg"]
    assert checked.figures["persons"] == 2


def test_pictures_in_training_and_validation(tmp_path):
    train = copy_set(tmp_path / "train")
    val = copy_set(tmp_path / "val", seed=8)
    pictures = sorted((tmp_path / "train" / "images").iterdir())
    # One picture of the validation set is a copy of one of the training set under another name, without its persons'
    # sizes fitting: content tells.
    name = json.loads(val.read_text())["images"][5]["file_name"]
    shutil.copy(pictures[2], tmp_path / "val" / "images" / name)
    found = diagnosis_of(config_file(tmp_path, [source(train, name="one")], [source(val, name="two")]))
    [shared] = found.shared
    assert shared.leak and shared.pairs == ((str(pictures[2]), str(tmp_path / "val" / "images" / name)),)
    assert "0 by path, 1 as copies" in found.warnings[0]
    same = diagnosis_of(config_file(tmp_path, [source(train, name="one")], [source(train, name="two")]))
    assert len(same.shared[0].pairs) == 24 and "24 by path, 0 as copies" in same.warnings[0]
    apart = [source(train, name=name, pictures=span) for name, span in (("one", [1, 12]), ("two", [13, 24]))]
    assert diagnosis_of(config_file(tmp_path, apart[:1], apart[1:])).shared == ()
    both = diagnosis_of(config_file(tmp_path, [source(train, name="one"), source(train, name="two")]))
    assert not both.shared[0].leak and both.warnings == ()


def test_doubles(tmp_path):
    annotations = copy_set(tmp_path / "set")
    pictures = sorted((tmp_path / "set" / "images").iterdir())
    shutil.copy(pictures[0], tmp_path / "set" / "images" / "again.jpg")

    def add(content):
        [first] = [image for image in content["images"] if image["file_name"] == pictures[0].name]
        content["images"].append({**first, "id": 10_001, "file_name": "again.jpg"})
        content["annotations"].append({**content["annotations"][0], "id": 10_002})

    edit(annotations, add)
    [checked] = diagnosis_of(config_file(tmp_path, [source(annotations)])).sets
    first = json.loads(annotations.read_text())["annotations"][0]["id"]
    assert checked.lists["duplicate_persons"] == [[first, 10_002]]
    assert checked.lists["repeated_pictures"] == [[str(pictures[0]), str(tmp_path / "set" / "images" / "again.jpg")]]
    assert checked.damaged == 0 and len(checked.warnings) == 2


def test_filters_count_for_training_only(tmp_path):
    annotations = copy_set(tmp_path / "set")
    strict = source(annotations, min_joints=17)
    train, val = diagnosis_of(config_file(tmp_path, [strict], [strict])).sets
    assert train.figures["persons"] < val.figures["persons"]
    assert any("fewer than 17 joints" in note for note in train.figures["notes"])
    assert train.figures["persons"] == train.figures["labelled_joints"][17]


MISTAKES = {
    "no configuration": (["nowhere.yaml"], "nowhere.yaml"),
    "no sets": (["config.yaml", "--set", "data.train=[]"], "neither data.train nor data.val"),
    "folder in use": (["config.yaml", "--out", "full"], "full: holds something else"),
    "a file in the way": (["config.yaml", "--out", "config.yaml"], "config.yaml: holds something else"),
    "unknown joint": (["config.yaml", "--set", "data.train.joints={beak: nose}"], "'beak'"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_file(tmp_path, [source(copy_set(tmp_path / "set"))])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").write_text("mine")
    error = check_here(*arguments).exception
    assert isinstance(error, ConfigError) and error.exit_code == 2 and message in str(error)
    assert (tmp_path / "full" / "index.html").read_text() == "mine"


def test_a_mistake_through_the_command(tmp_path):
    done = check("nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: nowhere.yaml") and done.stderr.count("\n") == 1


def test_files_named_beside_the_annotations_are_read(tmp_path):
    annotations = copy_set(tmp_path / "set")
    people = json.loads(annotations.read_text())["annotations"]
    boxes = tmp_path / "boxes.json"
    kept = [{key: person[key] for key in ("image_id", "category_id", "bbox")} for person in people]
    boxes.write_text(json.dumps([{**person, "score": 1.0} for person in kept]))
    sound = config_file(tmp_path, val=[source(annotations, detections=str(boxes))])
    assert diagnosis_of(sound).damaged == 0
    missing = config_file(tmp_path, val=[source(annotations, detections=str(tmp_path / "none.json"))])
    (damage,) = diagnosis_of(missing).sets[0].damage
    assert damage.file.endswith("none.json") and "missing file" in damage.reason
    boxes.write_text("[{}]")
    assert diagnosis_of(config_file(tmp_path, val=[source(annotations, detections=str(boxes))])).damaged == 1
