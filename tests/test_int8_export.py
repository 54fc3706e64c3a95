"""8-bit exports: calibrated, scored beside the float ones, refused when they lose too much."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from documents import PROJECT
from people_set import people_set, tiny_config
from shared_data import golden, sample

from msposenet import Predictor
from msposenet.config import load_config
from msposenet.errors import ConfigError, ExportError
from msposenet.export import int8 as int8_module
from msposenet.export.crops import calibration_crops, parity_crops
from msposenet.export.folder import export_model
from msposenet.export.int8 import Int8Request
from msposenet.inference.deployed import Deployed
from msposenet.inference.source import skeleton_of
from msposenet.models.build import build_codec, build_network, shifts
from msposenet.models.initialise import initialise
from msposenet.progress import Reporter
from msposenet.weights import load_torch_state_dict

QUIET = Reporter(quiet=True)


def export(config, net, folder, **options):
    """`net` exported with 8-bit graphs as the sets of its configuration allow."""
    request = Int8Request(config, QUIET, **options).of_model(config)
    skeleton = skeleton_of(config)
    crops, _ = parity_crops(config, skeleton)
    return export_model(
        net, build_codec(config), skeleton, folder, crops, model=config.model.name, enlarge=config.data.enlarge,
        flip=config.test.flip, shift=shifts(config), fused=False, int8=request,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    config = tiny_config()
    net = build_network(config, skeleton_of(config))
    initialise(net, seed=3)
    return config, net


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return folder, export(*tiny, folder, calibration=20, max_drop=101.0, keep_float=("conv2",))


def test_both_figures_are_given_and_kept_with_whose_boxes(exported):
    folder, result = exported
    about = json.loads((folder / "deploy.json").read_text())["int8"]
    assert about == result.int8.about.model_dump(mode="json", by_alias=True)
    assert about["calibrated_on"].startswith("20 crops of ") and about["float_layers"] == ["conv2"]
    (score,) = about["scores"]
    assert score["boxes"] == "ground truth" and score["metric"] == "AP" and {"float", "int8"} <= set(score)
    assert any("in float," in line and "boxes: ground truth" in line for line in result.int8.lines())
    assert result.int8.speed > 0


def test_the_predictor_takes_the_8_bit_graph_on_the_cpu(tiny, exported):
    folder, _ = exported
    config, _ = tiny
    crops, _ = parity_crops(config, skeleton_of(config))
    centers = np.full((len(crops), 2), 50.0)
    float_, int8 = (Deployed(folder, int8=wanted).keypoints(crops, centers, centers) for wanted in (False, True))
    assert 0 < np.abs(int8[..., 2] - float_[..., 2]).max() < 0.2 * np.abs(float_[..., 2]).max()
    image = np.zeros((100, 80, 3), np.uint8)
    assert Predictor(folder, device="cpu")(image).keypoints.shape == (1, 17, 3)


def test_a_loss_beyond_the_limit_is_refused_and_the_earlier_export_stays(tiny, tmp_path):
    config, net = tiny
    (tmp_path / "out").mkdir()
    skeleton = skeleton_of(config)
    crops, _ = parity_crops(config, skeleton)
    export_model(net, build_codec(config), skeleton, tmp_path / "out", crops, model="before", enlarge=1.25, fused=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ExportError, match=r"8-bit graphs lose .* points AP on .* boxes: ground truth.*--keep-float"):
        export(config, net, tmp_path / "out", calibration=4, max_drop=-101.0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("eight, allowed", [(0.706, True), (0.696, True), (0.694, False), (float("nan"), False)])
def test_the_limit_is_in_points_of_the_headline_figure(tiny, exported, monkeypatch, eight, allowed):
    config, _ = tiny
    figures = iter([0.7, eight])
    scored = lambda *_: SimpleNamespace(scores=SimpleNamespace(main=("AP", next(figures)), boxes="ground truth"))  # noqa: E731
    monkeypatch.setattr(int8_module, "score_set", scored)
    request = Int8Request(config, QUIET, max_drop=0.5).of_model(config)
    if allowed:
        assert int8_module.judge(exported[0], request, "crops", ()).about.scores[0].int8 == eight
    else:
        with pytest.raises(ExportError, match=r"more than 0\.5"):
            int8_module.judge(exported[0], request, "crops", ())


def test_what_8_bits_cannot_be_made_from_is_said(tiny, tmp_path):
    config, net = tiny
    for part in ("train", "val"):
        without = config.model_copy(update={"data": config.data.model_copy(update={part: ()})})
        with pytest.raises(ConfigError, match=rf"data\.{part} is not set"):
            export(without, net, tmp_path / "out")
    with pytest.raises(ConfigError, match="no layer 'nothing' to keep in float"):
        export(config, net, tmp_path / "out", calibration=2, keep_float=("nothing",))
    assert not (tmp_path / "out" / "deploy.json").exists()


def test_calibration_crops_are_the_same_each_time_and_damaged_pictures_are_passed_over(tiny, tmp_path):
    config, _ = tiny
    first, origin = calibration_crops(config, 6, QUIET)
    again, _ = calibration_crops(config, 6, QUIET)
    assert np.array_equal(first, again) and first.dtype == np.uint8 and origin.startswith("6 crops of ")
    everybody, _ = calibration_crops(config, 10_000, QUIET)
    assert len(everybody) == len(json.loads(people_set().read_text())["annotations"])


@pytest.mark.slow
def test_the_trained_reference_network_keeps_its_score_in_8_bits(tmp_path):
    overrides = []
    for key, path in (("annotations", "lsp_extended/joints.mat"), ("images", "lsp_extended/images")):
        overrides += [f"data.{part}.{key}={sample(path)}" for part in ("train", "val")]
    config = load_config(PROJECT / "configs" / "lsp_hrnet_w16_small.yaml", [*overrides, "data.val.metric=coco"])
    net = build_network(config, skeleton_of(config))
    with np.load(golden("lsp_reference/weights.npz")) as weights:
        load_torch_state_dict(net, dict(weights))
    result = export(config, net, tmp_path / "out", max_drop=0.3)
    (score,) = result.int8.about.scores
    assert score.float_ == pytest.approx(0.1159, abs=1e-3)
