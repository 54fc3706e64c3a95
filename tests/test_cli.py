"""The command line as a user runs it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from people_set import images_of, people_set, tiny_config

MODULE = [sys.executable, "-m", "msposenet"]


def run(*arguments, cwd=None, timeout=300):
    return subprocess.run(
        [*MODULE, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def test_help_names_every_verb():
    done = run("--help")
    assert done.returncode == 0
    for verb in ("demo", "train", "eval", "predict", "export", "summary"):
        assert verb in done.stdout
        assert run(verb, "--help").returncode == 0


def test_summary():
    done = run("summary", "mshrnet_w48x2", "--input", "384x288", "--json")
    figures = json.loads(done.stdout)
    assert figures["name"] == "mshrnet_w48x2" and figures["input"] == [384, 288]
    assert figures["params"] == 125_991_654
    assert figures["multiply_adds"] / 2**30 == pytest.approx(61.47, abs=0.005)
    assert "61.47 x 2^30" in run("summary", "mshrnet_w48x2", "--input", "384x288").stdout
    assert "hrnet_w32" in run("summary").stdout.split()
    optional = run("summary", "mshrnet_w48x2", "--input", "384x288", "--option", "repeat_stage2=true", "--json")
    assert json.loads(optional.stdout)["params"] > figures["params"]


MISTAKES = {
    "unknown model": (["summary", "hrnet_23"], "unknown model 'hrnet_23'; did you mean"),
    "bad size": (["summary", "hrnet_w32", "--input", "384"], "write height x width"),
    "odd size": (["summary", "hrnet_w32", "--input", "100x100"], "multiples of 32"),
    "option that is no YAML": (["summary", "hrnet_w32", "--option", "entry=["], "not YAML"),
    "bad option": (["summary", "hrnet_w32", "--option", "entry"], "write name=value"),
    "no configuration": (["train", "nowhere.yaml"], "nowhere.yaml"),
    "no weights": (["predict", "x.jpg", "--model", "hrnet_w32"], "--weights"),
    "no such run": (["eval", "runs/none"], "runs/none"),
    "nothing to export": (["export", "hrnet_w32"], "--weights"),
    "unknown format": (["export", "hrnet_w32", "--to", "tflite"], "unknown format 'tflite'"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_with_a_sentence_and_exit_code_2(arguments, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_eval_predict_export(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_config(train={"epochs": 1}).dump())
    done = run("train", "tiny.yaml", "--set", "train.base_lr=5e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "tiny"
    assert "lr=0.0005" in done.stderr and "data=" in done.stderr
    again = run("train", "tiny.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "--resume" in again.stderr
    # A longer run of the same: the run directory is enough to go on.
    more = run("train", folder, "--resume", "--set", "train.epochs=2", cwd=tmp_path)
    assert more.returncode == 0 and "changed on resuming: train.epochs 1 -> 2" in more.stderr

    scores = json.loads(run("eval", folder, "--json", "--out", "results.json", cwd=tmp_path).stdout)
    assert scores["boxes"] == "ground truth" and 0 <= scores["AP"] <= 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results and len(results[0]["keypoints"]) == 51
    detections = tmp_path / "boxes.json"
    truth = json.loads(people_set().read_text())["annotations"]
    detections.write_text(
        json.dumps([{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in truth])
    )
    text = run("eval", folder, "--boxes", detections, cwd=tmp_path)
    assert f"boxes: detector {detections}" in text.stdout and "Average Precision" in text.stdout
    assert "images have boxes" in text.stderr

    picture = sorted(images_of(people_set()).iterdir())[0]
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>")
    done = run("predict", picture, bad, "--model", folder, "--out", "found", cwd=tmp_path)
    assert done.returncode == 2 and "1 of 2 pictures" in done.stderr
    content = json.loads((tmp_path / "found" / f"{picture.stem}.json").read_text())
    assert content["image"] == str(picture) and (tmp_path / "found" / f"{picture.stem}_pose.jpg").exists()
    for folder_name in ("a", "b"):
        (tmp_path / folder_name).mkdir()
        (tmp_path / folder_name / "1.jpg").write_bytes(picture.read_bytes())
    assert run("predict", "a/1.jpg", "b/1.jpg", "--model", folder, "--out", "both", cwd=tmp_path).returncode == 0
    both = {json.loads(path.read_text())["image"] for path in (tmp_path / "both").glob("*.json")}
    assert both == {"a/1.jpg", "b/1.jpg"}
    boxed = run("predict", picture, "--model", folder, "--box", "10,10,60,90", "--box", "80,20,60,90", cwd=tmp_path)
    assert boxed.returncode == 0 and (tmp_path / "predictions").is_dir()
    assert run("predict", picture, "--model", folder, "--box", "1,2,3", cwd=tmp_path).returncode == 2

    done = run("export", folder, "--out", "deployed", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)["parity"]
    assert [check["batch"] for check in parity] == [1, 8, 1, 8] and all(c["map_error"] <= 1e-5 for c in parity)
    deployed = run("predict", picture, "--model", "deployed", "--out", "deployed_found", cwd=tmp_path)
    assert deployed.returncode == 0
    found = json.loads((tmp_path / "deployed_found" / f"{picture.stem}.json").read_text())
    for joint, (x, y, score) in content["people"][0]["keypoints"].items():
        assert found["people"][0]["keypoints"][joint] == pytest.approx([x, y, score], abs=0.2)


@pytest.mark.slow
def test_a_small_demo(tmp_path):
    done = run("demo", "--persons", 40, "--epochs", 1, "--json", "--out", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["boxes"] == "ground truth" and 0 <= figures["AP"] <= 1
    for made in ("data/train/annotations", "run/checkpoints/LAST", "prediction", "export/deploy.json"):
        assert (tmp_path / "shown" / made).exists()
    pictures = list((tmp_path / "shown" / "prediction").glob("*_pose.jpg"))
    assert len(pictures) == 1
    again = run("demo", "--persons", 40, "--epochs", 1, "--out", "shown", cwd=tmp_path)
    assert again.returncode == 0 and "resumed from step_" in again.stderr
    assert f"AP {figures['AP']:.3f} on" in again.stdout
