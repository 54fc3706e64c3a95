"""The configuration of the reference training on real people, with the reference's own trained weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from documents import PROJECT
from shared_data import golden, sample

from msposenet.config import load_config
from msposenet.inference.scoring import score_sets
from msposenet.inference.topdown import TopDown
from msposenet.models.build import build_codec, build_network, shifts
from msposenet.models.initialise import initialise
from msposenet.progress import Reporter
from msposenet.weights import load_torch_state_dict


@pytest.mark.slow
@pytest.mark.parametrize("flip", [True, False])
def test_the_references_weights_give_the_references_scores(flip):
    overrides = [f"test.flip={str(flip).lower()}"]
    for key, path in (("annotations", "lsp_extended/joints.mat"), ("images", "lsp_extended/images")):
        overrides += [f"data.{part}.{key}={sample(path)}" for part in ("train", "val")]
    config = load_config(PROJECT / "configs" / "lsp_hrnet_w16_small.yaml", overrides)
    skeleton = config.fixed_skeleton()
    net = build_network(config, skeleton)
    initialise(net)
    with np.load(golden("lsp_reference/weights.npz")) as weights:
        load_torch_state_dict(net, dict(weights))
    engine = TopDown(net, build_codec(config), skeleton, flip=flip, shift=shifts(config))
    (scored,) = score_sets(engine, config, Reporter(quiet=True))
    figures = scored.scores.values
    expected = json.loads(golden("lsp_reference/results_val.json").read_text())["val" if flip else "val_noflip"]
    assert figures["PCK@0.2"] == pytest.approx(100 * expected["pck@0.2"]["mean_over_labelled_joints"], abs=0.1)
    assert figures["OKS-AP"] == pytest.approx(100 * expected["oks_ap"]["AP"], abs=0.1)
    assert figures["mean OKS"] == pytest.approx(100 * expected["oks_ap"]["mean_oks"], abs=0.1)
    assert scored.scores.people == 300 and scored.scores.boxes == "ground truth"
