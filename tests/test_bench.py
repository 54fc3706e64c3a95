"""`msposenet bench`: all contenders do the same work, and the figures come out whole as table, JSON and chart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from people_set import people_set, records_of
from runner import cli_runner

from msposenet.benchmarks import chart, decoding, inference, loader, one_process, training, worker
from msposenet.benchmarks.figures import Figures, lines_of, rows_of
from msposenet.benchmarks.network import read_network, write_network
from msposenet.benchmarks.peers.plain_loading import plain_sample
from msposenet.benchmarks.processes import Settings
from msposenet.benchmarks.race import Entry, Race
from msposenet.cli.main import app
from msposenet.codecs import GaussianCodec
from msposenet.config import AugmentationConfig
from msposenet.data.samples import TrainingSamples
from msposenet.data.sampling import sample_rng
from msposenet.errors import ConfigError, DataError, PoseError, StorageError
from msposenet.geometry import Convention
from msposenet.models.summary import summarise
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17

TINY, SIZE = "hrnet_w8_small", (64, 64)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(TINY, inference.NUM_JOINTS, SIZE, tmp_path_factory.mktemp("network") / "weights.npz")


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The figures of a race, as the command line gives them, and the chart's file."""
    folder = tmp_path_factory.mktemp("raced")
    command = ["bench", "inference", "--model", TINY, "--input", "64x64", "--batch", "2", "--rounds", "1"]
    command += ["--turn", "0", "--threads", "1", "--only", "hybridized,fused", "--json"]
    command += ["--chart", str(folder / "chart.png"), "--out", str(folder / "figures.json")]
    result = cli_runner().invoke(app, command)
    assert result.exit_code == 0, result.stderr or repr(result.exception)
    figures = json.loads(result.stdout, parse_constant=pytest.fail)
    assert json.loads((folder / "figures.json").read_text()) == figures
    return figures, folder / "chart.png"


def made(contender):
    """What the contender's process would time, made in this one."""
    return worker.made(contender.make)(**contender.options)


# The same work


def test_our_contenders_give_the_networks_maps(network, tmp_path):
    found = inference.contenders(network, 2, tmp_path)
    data = mx.nd.array(np.load(found["fused"].options["data"]))
    wanted = read_network(**network.options)(data)[-1].asnumpy()
    assert wanted.shape == (2, 17, 16, 16) and np.isfinite(wanted).all() and wanted.std() > 0.01
    for key in ("hybridized", "fused"):
        np.testing.assert_allclose(made(found[key])(), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_weight_that_is_lost_shows_in_the_maps(network):
    """Else a peer that loads a layer wrongly would be timed as equal."""
    net = read_network(**network.options)
    net.hybridize()
    data = mx.nd.array(np.random.default_rng(0).standard_normal((1, 3, 64, 64)))
    wanted = net(data)[-1].asnumpy()
    for name, parameter in list(net._collect_params_with_prefix().items())[::25]:
        values = parameter.data().copy()
        parameter.set_data(values * (2 if name.endswith("running_var") else 0))
        assert np.abs(net(data)[-1].asnumpy() - wanted).max() > 1e-3 * np.abs(wanted).max(), name
        parameter.set_data(values)


def test_onnxruntime_gives_the_same_maps(network, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = inference.contenders(network, 2, tmp_path)
    wanted = made(found["hybridized"])()
    np.testing.assert_allclose(made(found["onnxruntime"])(), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("key", ["torch", pytest.param("torch_contiguous", marks=pytest.mark.thorough)])
def test_pytorch_gives_the_same_maps_and_the_same_losses(key, network, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = inference.contenders(network, 2, tmp_path)
    wanted = made(found["hybridized"])()
    np.testing.assert_allclose(made(found[key])(), wanted, atol=1e-4 * np.abs(wanted).max())
    found = training.contenders(network, 2, tmp_path)
    steps = made(found[key]), made(found["msposenet"])
    losses = np.array([[step()[0] for step in steps] for _ in range(found[key].checked)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
    assert losses[-1, 0] < 0.95 * losses[0, 0]


def test_pytorch_has_no_restatement_of_other_networks(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cascade = write_network("mshrnet_w8x2_small", 17, SIZE, tmp_path / "weights.npz")
    found = inference.contenders(cascade, 1, tmp_path)
    with pytest.raises(worker.NotMeasured, match="mshrnet_w8x2_small has no restatement"):
        made(found["torch"])


def test_a_training_step_moves_the_weights(network, tmp_path):
    found = training.contenders(network, 2, tmp_path)
    assert all(contender.checked > 1 for contender in found.values())
    step = made(found["msposenet"])
    losses = [float(step()[0]) for _ in range(4)]
    assert 0 < losses[-1] < 0.9 * losses[0]


def test_work_is_counted_and_the_engine_chosen(network, tmp_path):
    one, two = (inference.contenders(network, batch, tmp_path) for batch in (1, 2))
    assert set(one) == set(two)
    inline = {key for key, contender in one.items() if contender.environment.get("MXNET_ENGINE_TYPE") == "NaiveEngine"}
    assert inline == {"fused", "active", "int8"}
    work = 2 * summarise(get_model(TINY), TINY, SIZE).multiply_adds
    assert [one["fused"].operations, two["torch"].operations] == [work, 2 * work]
    assert next(iter(training.contenders(network, 2, tmp_path).values())).operations == 3 * 2 * work


# The figures


def test_json_holds_everything(raced):
    figures, _ = raced
    assert figures["bench"] == "inference" and figures["unit"] == "pictures"
    machine = figures["measured_on"]
    assert {"cpu", "cores", "threads", "versions", "date", "others"} == set(machine)
    assert machine["threads"] == 1 and machine["versions"]["numpy"] == np.__version__
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == ["Gluon, hybridized", "msposenet", "sgemm 2048, MXNet", "sgemm 2048, NumPy"]
    keys = {
        "case", "name", "kind", "items", "seconds_median", "quartiles", "per_second", "ratio", "ratio_quartiles",
        "reference", "ratios", "gflops", "share_of_peak", "not_measured",
    }  # fmt: skip
    assert all(set(row) == keys and row["case"] == "batch 2" for row in rows.values())
    for row in rows.values():
        low, high = row["quartiles"]
        assert 0 < low <= row["seconds_median"] <= high and row["not_measured"] is None
        assert row["gflops"] > 0 and 0 < row["share_of_peak"] < 3
    ours = rows["msposenet"]
    assert ours["kind"] == "ours" and ours["per_second"] == pytest.approx(2 / ours["seconds_median"])
    assert ours["reference"] == "Gluon, hybridized"  # the first of the references that was in the race
    assert ours["ratios"][ours["reference"]][1] == ours["ratio"] > 0
    assert max(rows[name]["share_of_peak"] for name in list(rows)[2:]) == 1
    assert [check["name"] for check in figures["checks"]] == ["Gluon, hybridized", "msposenet"]
    assert all(check["error"] < 1e-4 for check in figures["checks"])


def test_the_chart_is_a_picture(raced):
    _, path = raced
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 1000 and picture.shape[0] > 300
    for color in ((0xA5, 0x6E, 0x3A), (0xBD, 0xB2, 0xA8)):  # ours and peers, BGR
        assert (picture == color).all(axis=2).sum() > 1000


def known_race() -> Figures:
    entries = [Entry("ours", True, 2e9, 4), Entry("theirs", False, 2e9, 4), Entry("lost"), Entry("gemm", peak=True)]
    entries[3] = replace(entries[3], operations=8e9)
    seconds = {"ours": np.array([0.5, 0.4, 0.6]), "theirs": np.array([1.0, 0.8, 1.2]), "gemm": np.ones(3)}
    machine = {"cpu": "a processor", "cores": 2, "threads": 1, "versions": {"numpy": "1"}, "others": 0.25}
    figures = Figures("inference", "a title", "pictures", machine)
    for case in ("batch 4", "batch 8"):
        figures.rows += rows_of(case, entries, Race(seconds, {"lost": "it is ill"}), ["theirs"])
        figures.checks += [{"case": case, "name": name, "error": 1e-6, "unit": "px"} for name in ("ours", "theirs")]
    return figures


def test_the_chart_has_a_bar_for_each_contender_that_was_measured():
    axes = chart.draw(known_race()).axes
    assert [len(axis.patches) for axis in axes] == [2, 2]
    assert [[bar.get_width() for bar in axis.patches] for axis in axes] == [[8.0, 4.0]] * 2
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["ours", "theirs"]
    nothing = replace(known_race(), rows=[])
    assert len(chart.draw(nothing).axes[0].patches) == 0


def test_the_table_says_what_was_found():
    lines = lines_of(known_race())
    assert lines[:2] == [
        "a title", "a processor, 2 cores, 1 threads; numpy 1; other programs took 25% of the processor time"
    ]  # fmt: skip
    assert (
        "| contender | median | quartiles | pictures/s | times as fast as theirs | GFLOP/s | share of peak |" in lines
    )
    assert "| ours | 500 ms | 450 ms to 550 ms | 8.0 | 2.00 | 4.0 | 50% |" in lines
    assert "| gemm | 1 s | 1 s to 1 s |  |  | 8.0 | 100% |" in lines
    assert "| ours | 2.00 (2.00 to 2.00) |" in lines
    assert lines.count("not measured: lost: it is ill") == 2
    assert lines.count("results of 2 contenders agree to 1.0e-06 px") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inference", "--model", "hrnet_w0x"], "unknown model 'hrnet_w0x'"),
        (["inference", "--batch", "1,x"], "--batch '1,x'"),
        (["inference", "--input", "250x190"], "multiples of 32"),
        (["inference", "--model", TINY, "--only", "fused,jax"], "no contender is called 'jax'"),
        (["inference", "--waiting", "idle"], "--waiting idle"),
        (["inference", "--chart", "bars.jpg"], "--chart bars.jpg"),
        (["inference", "--out", "nowhere/figures.json"], "the folder nowhere does not exist"),
        (["training", "--model", "mspn_r50x2"], "mspn_r50x2"),
        (["decode", "--heatmap", "64"], "--heatmap '64'"),
    ],
)
def test_what_cannot_be_raced_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli_runner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, PoseError) and message in str(result.exception)


def test_a_chart_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"ends with \.png"):
        chart.write_chart(known_race(), tmp_path / "chart.gif")
    with pytest.raises(StorageError, match="cannot be written"):
        chart.write_chart(known_race(), tmp_path / "nowhere" / "chart.png")


# Training, decoding, evaluation


@pytest.mark.thorough
def test_bench_training_runs():
    command = ["bench", "training", "--model", TINY, "--input", "64x64", "--batch", "2", "--rounds", "1", "--turn", "0"]
    result = cli_runner().invoke(app, [*command, "--threads", "1", "--only", "msposenet"])
    assert result.exit_code == 0, result.stderr or repr(result.exception)
    assert "batch 2:" in result.stdout and "| msposenet | " in result.stdout and "samples/s" in result.stdout


def test_bench_decode_has_every_decoder():
    command = ["bench", "decode", "--batch", "2", "--joints", "3", "--heatmap", "32x24", "--rounds", "2", "--turn", "0"]
    result = cli_runner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.stderr or repr(result.exception)
    figures = json.loads(result.stdout)
    rows = {(row["case"], row["name"]): row for row in figures["rows"]}
    assert {case for case, _ in rows} == set(decoding.CASES)
    for case in ("quarter", "dark"):
        assert rows[case, decoding.OURS]["reference"] == decoding.LOOPS
        assert set(rows[case, decoding.OURS]["ratios"]) == {decoding.LOOPS}
    assert all(row["per_second"] == pytest.approx(2 / row["seconds_median"]) for row in rows.values())
    assert all(check["error"] <= check["tolerance"] and check["unit"] == "px" for check in figures["checks"])


def test_bench_evaluation_compares_what_gives_the_same_numbers():
    figures = one_process.evaluate(20, 60, Settings(rounds=2, turn=0))
    assert [(row.case, row.name, row.reference) for row in figures.rows] == [
        (case, name, "pycocotools") for case in ("files and scores", "scores") for name in ("msposenet", "pycocotools")
    ]
    assert all(row.per_second == pytest.approx(60 / row.seconds_median) for row in figures.rows)
    assert "results of 2 contenders agree to the last bit" in lines_of(figures)


# The loader


def test_the_plain_recipe_makes_the_same_sample():
    """What the loader is compared with is not a straw man: its crop, joints and targets are ours, bit for bit."""
    records = records_of(people_set())
    wh = (96, 128)  # a sigma of 1: the reference's window is whole px only then
    made = TrainingSamples(records, wh, Convention.STANDARD, AugmentationConfig(), 3)
    codec = GaussianCodec(wh, (24, 32), Convention.STANDARD, sigma=1.0)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    for index in range(12):
        tensor, heatmaps, weights = plain_sample(
            records.path(index), made.centers[index], made.sizes[index], records.keypoints[index], COCO_17,
            AugmentationConfig(), wh, sample_rng(3, 0, index),
        )  # fmt: skip
        crop, joints, labelled = made.make(0, index)
        np.testing.assert_allclose(tensor.transpose(1, 2, 0), (crop / np.float32(255) - mean) / std, atol=1e-6)
        wanted, weight = codec.encode(joints[None], labelled[None])
        np.testing.assert_array_equal(weights[:, 0], weight[0])
        np.testing.assert_allclose(heatmaps, wanted[0], atol=1e-5)


def test_a_crowd_repeats_people_on_their_own_pictures():
    records = records_of(people_set())
    crowd = loader.crowded(records, 4.0)
    assert len(crowd) == 4 * loader.pictures_of(records) == 4 * loader.pictures_of(crowd)
    crowd.check()
    assert loader.crowded(records, 0.5) is records


def test_the_benchmark_takes_readable_pictures_with_all_their_people():
    records = records_of(people_set())
    some = loader.readable(records, 5)
    assert 5 <= len(some) < len(records)
    for picture in np.unique(some.image_index):
        assert (some.image_index == picture).sum() == (records.image_index == picture).sum()
    gone = replace(records, image_paths=np.char.add(records.image_paths, b"x"))
    with pytest.raises(DataError, match="none of the pictures can be read"):
        loader.readable(gone, 5)
    with pytest.raises(ConfigError, match="--crowd is nan"):
        loader.crowded(records, float("nan"))


@pytest.fixture
def config_file(tmp_path) -> Path:
    annotations = people_set()
    path = tmp_path / "c.yaml"
    path.write_text(
        f"data: {{train: {{annotations: {annotations}, images: {annotations.parent.parent / 'images'}}}, "
        "input: [96, 64]}\nmodel: {name: hrnet_w8_small}\n"
    )
    return path


def test_bench_loader_prints_every_contender(config_file):
    command = ["bench", "loader", str(config_file), "--samples", "4", "--rounds", "2"]
    result = cli_runner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.stderr or repr(result.exception)
    found = json.loads(result.stdout)
    names = [row["name"] for row in found["rows"]]
    assert names[:2] == [loader.BASELINE, loader.FLOOR] and "pack" in names and len(names) == 7
    assert all(row["per_second"] > 0 and row["reference"] == loader.BASELINE for row in found["rows"])
    assert set(found["stages_ms"]) == set(loader.STAGES) and "persons on" in found["title"]
    lines = cli_runner().invoke(app, command).stdout.splitlines()
    assert [name for name in names if not any(line.startswith(f"| {name} | ") for line in lines)] == []
    assert lines[-1].startswith("stages of a sample from files: read ")
