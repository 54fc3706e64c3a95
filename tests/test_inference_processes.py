"""Several processes behind one engine: the same poses, errors told, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from people_set import images_of, people_set, tiny_config

from msposenet import Predictor
from msposenet.errors import CheckpointError, ConfigError, PeerError
from msposenet.models.initialise import initialise
from msposenet.models.zoo import get_model
from msposenet.weights import get_arrays
from msposenet.weights.params_file import write_params

BOXES = [[20, 10, 90, 150], [100, 30, 80, 120], [10, 40, 60, 90]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A configuration file and weights for it."""
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config()
    (folder / "config.yaml").write_text(config.dump())
    net = get_model(config.model.name, 17)
    initialise(net, seed=1)
    arrays = {name: array * (0.1 if "final_layer" in name else 1) for name, array in get_arrays(net).items()}
    write_params(folder / "w.params", arrays)
    return folder / "config.yaml", folder / "w.params"


def workers() -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "msposenet.inference.process_worker"], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


def test_two_processes_give_what_one_gives_in_order_and_leave(model):
    pictures = [(path, BOXES[: 1 + index % 3]) for index, path in enumerate(sorted(images_of(people_set()).iterdir()))]
    alone = Predictor(*model, device="cpu")
    wanted = [alone(path, boxes) for path, boxes in pictures]
    streamed = list(alone.stream(pictures))
    several = Predictor(*model, device="cpu", processes=2)
    assert len(workers()) == 2
    found = list(several.stream(pictures))
    for people in (streamed, found):
        assert [one.name for one in people] == [str(path) for path, _ in pictures]
        for one, other in zip(people, wanted):
            np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.02)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert several.skeleton == alone.skeleton and several.enlarge == alone.enlarge

    victim = workers()[0]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(PeerError, match=rf"process {victim} .* was lost \(exit code -9"):
        list(several.stream(pictures))
    assert workers() == []  # their answers would come to the wrong questions
    with pytest.raises(PeerError):
        several(*pictures[0])


def test_what_a_process_cannot_open_is_told(model, tmp_path):
    with pytest.raises(CheckpointError, match="HTML"):
        bad = tmp_path / "bad.params"
        bad.write_text("<html>")
        Predictor(model[0], bad, device="cpu", processes=2)
    with pytest.raises(ConfigError, match="processes is 0"):
        Predictor(*model, processes=0)
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers() == []


def test_a_killed_program_leaves_no_process(model):
    code = (
        "import sys, time; from msposenet import Predictor\n"
        "if True:\n p = Predictor(*sys.argv[1:], device='cpu', processes=1 + 1)\n"
        " print(*[link.process.pid for link in p._engine._links], flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, *map(str, model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        program.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}/cmdline") and _alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "before, device, engine", [("", "cpu", "NaiveEngine"), ("", "gpu:0", "None"), ("loaded", "cpu", "None")]
)
def test_a_process_that_only_predicts_computes_inline_and_says_nothing(before, device, engine):
    code = ("from msposenet import runtime; " if before else "") + (
        f"import os; from msposenet.inline import compute_inline; compute_inline({device!r})\n"
        "from msposenet.runtime import mx; import numpy as np\n"
        "print(os.environ.get('MXNET_ENGINE_TYPE'), float(mx.nd.array(np.ones(3)).sum().asscalar()))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MXNET_ENGINE_TYPE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([engine, "3.0"], "")
