"""The bare network in use, float32 pictures in, maps out: this package, PyTorch and onnxruntime on the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from msposenet.benchmarks import machine
from msposenet.benchmarks.figures import Figures, rows_of
from msposenet.benchmarks.network import Network, write_network
from msposenet.benchmarks.processes import Contender, Settings, Started, started
from msposenet.benchmarks.race import Race, race
from msposenet.errors import ConfigError
from msposenet.inline import ENGINE, INLINE
from msposenet.progress import Reporter

_OURS = "msposenet.benchmarks.ours"
_TORCH = "msposenet.benchmarks.peers.torch_hrnet"
_ONNX = "msposenet.benchmarks.peers.onnx_hrnet"
NUM_JOINTS = 17
FLOAT, INT8 = "msposenet", "msposenet, 8 bits"


def contenders(network: Network, batch: int, folder: Path) -> dict[str, Contender]:
    """All there is to compare at this batch, by the key that `--only` knows; the first one's maps are the right ones.

    Writes the pictures that all of them see to `folder`.
    """
    height, width = network.input_hw
    data = folder / f"data_{batch}.npy"
    np.save(data, np.random.default_rng(1).standard_normal((batch, 3, height, width), np.float32))
    options = {**network.options, "data": str(data)}
    common = {"operations": 2.0 * network.multiply_adds * batch, "items": batch}
    peer = {**common, "options": options}
    ours = {**peer, "ours": True}
    inline = {ENGINE: INLINE}  # as `predict` and `eval` compute
    found = {
        "hybridized": Contender("Gluon, hybridized", make=f"{_OURS}:hybridized", **peer),
        "fused": Contender(FLOAT, make=f"{_OURS}:fused", environment=inline, **ours),
    }
    found["queued"] = Contender("msposenet, queued", make=f"{_OURS}:fused", **ours)
    waiting = {**inline, "OMP_WAIT_POLICY": "ACTIVE"}
    found["active"] = Contender("msposenet, active waiting", make=f"{_OURS}:fused", environment=waiting, **ours)
    found["torch"] = _torch("PyTorch, channels-last", True, peer)
    found["torch_contiguous"] = _torch("PyTorch, contiguous", False, peer)
    found["onnxruntime"] = Contender("onnxruntime", make=f"{_ONNX}:inference", **peer)
    # Made-up weights say nothing about what 8 bits lose; `export --int8` measures that.
    found["int8"] = Contender(INT8, make=f"{_OURS}:int8", environment=inline, tolerance=None, **ours)
    return found


def _torch(name: str, channels_last: bool, common: dict) -> Contender:
    options = {**common["options"], "channels_last": channels_last}
    return Contender(name, make=f"{_TORCH}:inference", **{**common, "options": options})


def inference(
    model: str,
    input_hw: tuple[int, int],
    batches: Sequence[int],
    settings: Settings,
    only: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Figures:
    """Race at each of `batches`, on float32 pictures of `input_hw` px. only: the contenders' keys; all when empty.

    Raises ConfigError for an unknown model or contender, ExportError for one whose maps are not the network's.
    """
    title = f"{model}, {input_hw[0]} x {input_hw[1]}, float32, {settings.rounds} rounds by turns"
    figures = Figures("inference", title, "pictures", machine.describe(settings.cores))
    references = ("PyTorch, channels-last", "PyTorch, contiguous", "onnxruntime", "Gluon, hybridized")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = write_network(model, NUM_JOINTS, input_hw, folder / "weights.npz")
        for batch in batches:
            wanted = chosen(contenders(network, batch, folder), only)
            race_processes(figures, f"batch {batch}", wanted, references, settings, folder, reporter)
    return figures


def chosen(found: dict[str, Contender], only: Sequence[str]) -> list[Contender]:
    """Those of the keys `only`, or all."""
    unknown = [key for key in only if key not in found]
    if unknown:
        raise ConfigError(f"--only {','.join(only)}: no contender is called {unknown[0]!r}; known: {', '.join(found)}")
    return [contender for key, contender in found.items() if not only or key in only]


def race_processes(
    figures: Figures,
    case: str,
    wanted: Sequence[Contender],
    references: Sequence[str],
    settings: Settings,
    folder: Path,
    reporter: Reporter | None = None,
) -> None:
    """Race the contenders, and the machine's peak among them, and add the rows to the figures."""
    reporter = reporter or Reporter(quiet=True)
    entries = [*wanted, *machine.peaks()]
    watch = machine.Watch()
    label = f"{figures.bench}, {case}" if case else figures.bench
    with ExitStack() as stack:
        with reporter.task(f"{label}: starting the contenders") as advance:
            ready = stack.enter_context(started(entries, settings, folder, advance))
        result = _race(ready, settings, reporter, label)
    used = sum(process.processor for process in ready.processes.values())
    others = watch.others(used)
    if others is not None:
        figures.measured_on["others"] = max(others, figures.measured_on.get("others", 0.0))
    figures.rows += rows_of(case, entries, result, references)
    figures.checks += [{"case": case, **asdict(check)} for check in ready.checks]


def _race(ready: Started, settings: Settings, reporter: Reporter, label: str) -> Race:
    runs = {name: process.run for name, process in ready.processes.items()}
    with reporter.task(f"{label}: racing") as advance:
        result = race(runs, settings.rounds, settings.turn, progress=advance)
    result.lost.update(ready.lost)
    return result
