"""Training from a configuration to checkpoints: the loop, and what stands around it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.config import Config
from msposenet.data.loader import TrainingLoader
from msposenet.data.training_set import training_samples
from msposenet.devices import contexts
from msposenet.errors import ConfigError, DataError, PoseError, StorageError, Terminated
from msposenet.evaluation.results import write_results
from msposenet.inference.drawing import prediction_grid
from msposenet.inference.scoring import overall, score_set, validation_sets
from msposenet.inference.topdown import TopDown
from msposenet.models.build import build_codec, build_network, sanity_check, shifts
from msposenet.models.initialise import initialise
from msposenet.progress import Reporter
from msposenet.runtime import mx
from msposenet.storage import file_name
from msposenet.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from msposenet.training.graph import TrainingGraph, loss_names
from msposenet.training.run import CHECKPOINTS, RESULTS, open_run, with_skeleton
from msposenet.training.runlog import RunLog
from msposenet.training.schedule import learning_rate
from msposenet.training.step import Stepper
from msposenet.weights import get_arrays, set_arrays
from msposenet.weights.files import load_weights

_ADAM_ARRAYS = 3  # weight, mean, variance
_GRID = 4  # crops in the TensorBoard picture


@dataclass
class Progress:
    """How far a run is: what state.json says. `validated` is the step of the last validation.

    `best_score` is the largest mean over the validation sets of each one's headline figure.
    """

    step: int = 0
    best_score: float = -1.0
    best_step: int = -1
    validated: int = 0


def train(
    config: Config,
    folder: Path,
    resume: bool = False,
    init_from: Path | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Train as `config` says in the run directory `folder`; returns `folder`.

    `resume` goes on from the last valid checkpoint, bit for bit as if it had never stopped (with train.amp the loss
    scale starts anew). `init_from` fills the network from a weight file, a checkpoint or a run first; a head for other
    joints starts anew. Raises children of PoseError: bad data and configuration before anything is computed or
    written, DivergedError, StorageError, LoaderError, and Terminated after a SIGTERM was answered with a checkpoint.
    """
    reporter = reporter or Reporter(quiet=True)
    if resume and init_from:
        raise ConfigError("--resume and --init-from exclude each other: a resumed run has its weights")
    samples = training_samples(config, reporter.say)
    skeleton = samples.skeleton
    config = with_skeleton(config, skeleton)
    sanity_check(config, skeleton)
    validation = validation_sets(config, skeleton, reporter.say) if config.data.val else []
    net = build_network(config, skeleton)
    loader = TrainingLoader(  # its workers are forked here, before a GPU is touched
        samples,
        config.train.batch_size,
        config.data.workers,
        timeout=config.data.worker_timeout,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    with loader, _sigterm() as terminated:
        devices = contexts(config.train.devices)
        if config.train.amp:
            _start_amp(devices)
        initialise(net, config.model.initialisation, config.train.seed, devices)
        lines = [load_weights(net, init_from, drop_head=True).line()] if init_from else []
        run = _Run(config, folder, net, validation, loader, devices, reporter, terminated)
        # Nothing is written before everything has been built: a mistake leaves no half-made run behind.
        size = sum(int(np.prod(p.shape)) for p in net.collect_params().values()) * 4
        found = None
        if resume and any((folder / CHECKPOINTS).glob("*")):
            found = load_checkpoint(folder / CHECKPOINTS, "last", say=lines.append)
        differences = open_run(folder, config, resume, (config.train.keep + 2) * _ADAM_ARRAYS * size)
        if resume and found is None:
            lines.append("the run ended before its first checkpoint: starting at step 0")
        run.start(found, [*lines, *(f"changed on resuming: {line}" for line in differences)])
        run.go()
    return folder


def _start_amp(devices: list[mx.Context]) -> None:
    if any(device.device_type != "gpu" for device in devices):
        raise ConfigError("train.amp: float16 needs GPUs, the devices are CPUs; set train.amp: false")
    mx.contrib.amp.init()


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list that SIGTERM puts its number into; outside the main thread signals are not ours to take."""
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    except ValueError:
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """A run in progress."""

    def __init__(self, config, folder, net, validation, loader, devices, reporter, terminated) -> None:
        self.config, self.folder, self.net = config, folder, net
        skeleton = loader.samples.skeleton
        self.loader, self.validation, self.reporter, self.terminated = loader, validation, reporter, terminated
        codec = build_codec(config)
        outputs = net.spec.stages
        graph = TrainingGraph(net, codec, config.loss, skeleton, outputs)
        graph.hybridize(static_alloc=True, static_shape=True)
        self.names = loss_names(codec, outputs)
        used = _used_parameters(net)
        self.stepper = Stepper(graph, used, devices, config.train.batch_size, config.train.clip_norm, config.train.amp)
        self.engine = TopDown(
            net, codec, skeleton, devices[0], config.test.flip, shifts(config), config.test.batch_size
        )
        self.done = Progress()
        self.named: set[str] = set()  # damaged pictures the log has told of

    def start(self, found: Checkpoint | None, lines: list[str]) -> None:
        """Begin at step 0, or where the checkpoint `found` left off; `lines` open the log."""
        if found is not None:
            set_arrays(self.net, found.params, str(found.path))
            self.stepper.optimizer.restore(found.optimizer, found.state["updates"])
            state = found.state
            # Called best_ap while there was one metric.
            best = state.get("best_score", state.get("best_ap", -1.0))
            self.done = Progress(found.step, best, state["best_step"], state["validated"])
        self.log = RunLog(self.folder, self.reporter.say, self.done.step)
        for line in lines:
            self.log.line(line)
        if found is not None:
            self.log.line(f"resumed from {found.path.name}")

    def go(self) -> None:
        config, steps = self.config.train, self.loader.steps
        self.log.line(
            f"{len(self.loader.samples)} persons, {config.epochs} epochs of {steps} steps of {config.batch_size}; "
            f"steps {self.done.step} to {steps * config.epochs}"
        )
        try:
            if self.done.step and self.done.step % steps == 0:
                self._validate_if_due(self.done.step // steps - 1)  # if the run ended before it got to it
            with self.reporter.task("training") as advance:
                while self.done.step < steps * config.epochs:
                    self._epoch(self.done.step // steps, advance)
        except PoseError as error:
            with suppress(StorageError):  # a full disk must not hide what went wrong
                self.log.record(f"error: {error}")
            raise
        finally:
            self.log.close()

    def _epoch(self, epoch: int, advance) -> None:
        config, steps = self.config.train, self.loader.steps
        window = _Window(self.names, config.batch_size)
        self.loader.waited = 0.0
        for batch in self.loader.batches(epoch, self.done.step % steps):
            rate = learning_rate(self.done.step, steps, config)
            # Nothing in the step draws random numbers; should a layer ever do, it still depends on the step alone.
            mx.random.seed(config.seed + self.done.step)
            window.add(self.stepper(batch, rate, self.done.step))
            self.done.step += 1
            advance(self.done.step, steps * config.epochs)
            step_in_epoch = self.done.step - epoch * steps
            if step_in_epoch % config.log_every == 0 or step_in_epoch == steps:
                self._report(epoch, step_in_epoch, rate, window)
            self._name_damage()
            last = step_in_epoch == steps
            if self.terminated:
                self._save()
                self._stop_if_terminated()
            if not last and config.checkpoint_steps and self.done.step % config.checkpoint_steps == 0:
                self._save()
        # Saved first: a validation that fails must not cost the epoch.
        self._save()
        self._validate_if_due(epoch)

    def _name_damage(self) -> None:
        """A line for every damaged picture that was met for the first time."""
        for kind, met in (("skipped", self.loader.bad), ("damaged but whole", self.loader.repaired)):
            for path, reason in met.items():
                if path not in self.named:
                    self.named.add(path)
                    self.log.line(f"{kind}: {reason if path in reason else f'{path}: {reason}'}")

    def _stop_if_terminated(self) -> None:
        """Called where the last checkpoint is up to date."""
        if self.terminated:
            raise Terminated(f"{self.folder}: SIGTERM; stopped after step {self.done.step}, resume to go on")

    def _validate_if_due(self, epoch: int) -> None:
        config = self.config.train
        due = epoch + 1 == config.epochs or (config.validate_every and (epoch + 1) % config.validate_every == 0)
        if not self.validation or not due or self.done.validated == self.done.step:
            return
        score = self._validate(epoch)
        self.done.validated = self.done.step
        best = score > self.done.best_score
        if best:
            self.done.best_score, self.done.best_step = score, self.done.step
        self._save(best)

    def _report(self, epoch: int, step: int, rate: float, window: _Window) -> None:
        waited, self.loader.waited = self.loader.waited, 0.0
        terms, speed, share = window.take(waited)
        parts = " ".join(f"{name}={value:.3e}" for name, value in terms.items())
        self.log.line(
            f"Epoch[{epoch + 1}] Batch [{step}] Speed: {speed:.2f} samples/sec loss={sum(terms.values()):.4e} "
            f"{parts} lr={rate:g} data={share:.0%}"
        )
        self.log.figures(
            self.done.step, loss=sum(terms.values()), lr=rate, samples_per_second=speed, data_share=share, **terms
        )

    def _validate(self, epoch: int) -> float:
        several = len(self.validation) > 1
        scored = []
        for part in self.validation:
            found = score_set(self.engine, part, self.config, self.reporter, self._stop_if_terminated)
            scored.append(found)
            # A single set keeps the name of its file, which other programs look for.
            stem = file_name(part.title) if several else part.source.annotations.stem
            write_results(self.folder / RESULTS / f"keypoints_{stem}.json", found.results)
            figures = found.scores.figures
            title = f"{part.title}: " if several else ""
            shown = " ".join(f"{name.replace(' ', '_')}={value:.4f}" for name, value in figures.items())
            self.log.line(f"Epoch[{epoch + 1}] Validation {title}{shown} boxes: {found.scores.boxes}")
            prefix = f"{part.title}/" if several else ""
            self.log.figures(self.done.step, **{f"{prefix}{name}": value for name, value in figures.items()})
        score = overall(scored)
        if several:
            self.log.line(f"Epoch[{epoch + 1}] Validation mean of the {len(scored)} headline figures: {score:.4f}")
            self.log.figures(self.done.step, validation=score)
        with suppress(DataError):  # a damaged picture among the first four must not end a run
            self.log.picture(
                self.done.step,
                "predictions",
                prediction_grid(self.engine, self.validation[0].boxes.records, _GRID, self.config.data.enlarge),
            )
        return score

    def _save(self, best: bool = False) -> None:
        save_checkpoint(
            self.folder / CHECKPOINTS,
            self.done.step,
            params=get_arrays(self.net),
            optimizer=self.stepper.optimizer.arrays(),
            state={
                "step": self.done.step,
                "updates": self.stepper.optimizer.updates,
                "best_score": self.done.best_score,
                "best_step": self.done.best_step,
                "validated": self.done.validated,
            },
            keep=self.config.train.keep,
            best=best,
        )


class _Window:
    """Loss terms and time since the last line of the log."""

    def __init__(self, names: list[str], batch_size: int) -> None:
        self._names, self._batch_size = names, batch_size
        self._clear()

    def _clear(self) -> None:
        self._terms: list[np.ndarray] = []
        self._start = time.perf_counter()

    def add(self, terms: np.ndarray) -> None:
        self._terms.append(terms)

    def take(self, waited: float) -> tuple[dict[str, float], float, float]:
        """Mean terms by name, samples a second, share of the time spent waiting for data."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        mean = dict(zip(self._names, np.mean(self._terms, axis=0).tolist()))
        speed = len(self._terms) * self._batch_size / seconds
        self._clear()
        return mean, speed, min(1.0, waited / seconds)


def _used_parameters(net) -> dict[str, mx.gluon.Parameter]:
    """The network's parameters that reach an output, by structural name: only they get a gradient."""
    reached = set(mx.sym.Group(list(net(mx.sym.var("data")))).list_inputs())
    return {name: p for name, p in net._collect_params_with_prefix().items() if p.name in reached}
