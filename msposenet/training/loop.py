"""Training from a configuration to checkpoints: the loop, and what stands around it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from msposenet.config import Config
from msposenet.data.loader import TrainingLoader
from msposenet.data.training_set import training_samples
from msposenet.devices import contexts
from msposenet.distributed.group import Alone, Group
from msposenet.distributed.store import choose_kvstore
from msposenet.errors import ConfigError, PoseError, StorageError, Terminated
from msposenet.inference.scoring import validation_sets
from msposenet.inference.topdown import TopDown
from msposenet.models.build import build_codec, build_network, sanity_check, shifts
from msposenet.models.initialise import initialise
from msposenet.models.normalisation import set_batch_norm
from msposenet.progress import Reporter
from msposenet.runtime import mx
from msposenet.training.checkpoint import checkpoint_steps, load_checkpoint
from msposenet.training.graph import TrainingGraph, loss_names
from msposenet.training.optimizer import server_settings
from msposenet.training.run import CHECKPOINTS, RESULTS, is_run, open_run, with_skeleton
from msposenet.training.runlog import NoLog, RunLog
from msposenet.training.schedule import learning_rate
from msposenet.training.snapshots import Progress, Snapshots
from msposenet.training.statistics import Statistics
from msposenet.training.step import Stepper
from msposenet.training.together import Start, agree_on_devices, agree_on_settings, share_start
from msposenet.training.validation import Validation
from msposenet.weights import get_arrays
from msposenet.weights.cache import find_file
from msposenet.weights.files import load_weights

_ADAM_ARRAYS = 3  # weight, mean, variance


def train(
    config: Config,
    folder: Path,
    resume: bool = False,
    init_from: Path | None = None,
    reporter: Reporter | None = None,
    group: Group | None = None,
    auto_resume: bool = False,
) -> Path:
    """Train as `config` says in the run directory `folder`; returns `folder`.

    `resume` goes on from the last valid checkpoint, bit for bit as if it had never stopped (not so with dist_async, or
    with more than two workers, whose sums depend on who comes first; with train.amp the loss scale starts anew, with
    train.compression what it held back is lost); `auto_resume` does so if there is a run and starts one else.
    `init_from` fills the network from a weight file, a checkpoint or a run first; a head for other joints starts anew.
    `group`: this worker's place in a job; all workers call this with the same arguments, rank 0 alone reads and writes
    `folder` and `init_from`. Raises children of PoseError: bad data and configuration before anything is computed or
    written, DivergedError, StorageError, LoaderError, and Terminated after a SIGTERM was answered with a checkpoint, or
    before the first step.
    """
    group = group or Alone()
    reporter = reporter or Reporter(quiet=True)
    if resume and init_from:
        raise ConfigError("--resume and --init-from exclude each other: a resumed run has its weights")
    if auto_resume:
        resume, begun = group.all("resume", [is_run(folder), bool(checkpoint_steps(folder / CHECKPOINTS))])[0]
        # A run that was lost before its first checkpoint begins once more from the same weights.
        init_from = None if begun else init_from
    group.phase("reading the data", config.train.start_timeout)
    samples = training_samples(config, reporter.say)
    skeleton = samples.skeleton
    config = with_skeleton(config, skeleton)
    sanity_check(config, skeleton)
    validation = validation_sets(config, skeleton, reporter.say) if config.data.val else []
    agree_on_settings(group, config, [samples.records, *(part.boxes.records for part in validation)])
    _stop_before_beginning(group, folder)
    net = build_network(config, skeleton)
    loader = TrainingLoader(  # its workers are forked here, before a GPU is touched
        samples,
        config.train.batch_size,
        config.data.workers,
        rank=group.rank,
        ranks=group.size,
        timeout=config.data.worker_timeout,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    with loader, _sigterm(group):
        devices = contexts(config.train.devices)
        agree_on_devices(group, devices)
        if config.train.amp:
            _start_amp(devices)
        initialise(net, config.model.initialisation, config.train.seed, devices)
        first = group.rank == 0
        group.phase("meeting the servers", config.train.start_timeout)
        lines = [load_weights(net, find_file(init_from), drop_head=True).line()] if init_from and first else []
        run = _Run(config, folder, net, validation, loader, devices, reporter, group)
        found = None
        group.phase("loading the checkpoint", config.train.start_timeout)
        if first:
            # Nothing is written before everything has been built: a mistake leaves no half-made run behind.
            size = sum(int(np.prod(p.shape)) for p in net.collect_params().values()) * 4
            if resume and checkpoint_steps(folder / CHECKPOINTS):
                found = load_checkpoint(folder / CHECKPOINTS, "last", say=lines.append)
            changes = open_run(folder, config, resume, (config.train.keep + 2) * _ADAM_ARRAYS * size)
            if resume and found is None:
                lines.append("the run ended before its first checkpoint: starting at step 0")
            lines += [f"changed on resuming: {line}" for line in changes]
        run.start(share_start(group, found, get_arrays(net)), lines)
        try:
            group.phase("beginning")
            _stop_before_beginning(group, folder)
            run.go()
        except Terminated:
            run.close()
            raise
        run.close()
    return folder


def _start_amp(devices: list[mx.Context]) -> None:
    if any(device.device_type != "gpu" for device in devices):
        raise ConfigError("train.amp: float16 needs GPUs, the devices are CPUs; set train.amp: false")
    mx.contrib.amp.init()


def _stop_before_beginning(group: Group, folder: Path) -> None:
    """Answer a SIGTERM that came before the first step, which may be long in coming; there is nothing to save yet."""
    if any(group.all("asked to stop", group.stop_requested)):
        raise Terminated(f"{folder}: SIGTERM before the first step; start it again, or resume, to go on")


@contextmanager
def _sigterm(group: Group) -> Iterator[None]:
    """Pass SIGTERM on to the group; outside the main thread signals are not ours to take."""
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: group.ask_to_stop())
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """A run in progress, as one worker sees it. All workers go through the same calls; rank 0 keeps the books."""

    def __init__(self, config, folder, net, validation, loader, devices, reporter, group) -> None:
        self.config, self.folder, self.group = config, folder, group
        self.first = group.rank == 0
        skeleton = loader.samples.skeleton
        self.loader, self.reporter = loader, reporter
        codec = build_codec(config)
        outputs = net.spec.stages
        set_batch_norm(net, config.train.batch_norm, devices, config.train.amp)
        graph = TrainingGraph(net, codec, config.loss, skeleton, outputs)
        graph.hybridize(static_alloc=True, static_shape=True)
        self.names = loss_names(codec, outputs)
        used = _used_parameters(net)
        options = config.train
        kvstore = choose_kvstore(options.kvstore, devices, group, options.compression)
        self.stepper = Stepper(
            graph,
            used,
            devices,
            options.batch_size,
            options.clip_norm,
            options.amp,
            group,
            kvstore,
            options.compression,
            synchronised=options.batch_norm == "sync",
        )
        self.statistics = Statistics(net, devices)
        self.snapshots = Snapshots(folder / CHECKPOINTS, options, net, self.stepper, self.statistics, group)
        engine = TopDown(net, codec, skeleton, devices[0], config.test.flip, shifts(config), config.test.batch_size)
        self.validation = Validation(validation, engine, config, folder / RESULTS, reporter, group)
        self.done = Progress()
        self.named: set[str] = set()  # damaged pictures the log has told of

    def start(self, start: Start, lines: list[str]) -> None:
        """Begin at step 0, or where the checkpoint that rank 0 found left off; `lines` open the log."""
        self.done, notes = self.snapshots.restore(start)
        if self.stepper.asynchronous:
            settings = server_settings(
                self.config.train, self.done.step, self.loader.steps, self.group.size, len(self.statistics.devices)
            )
            self.stepper.exchange.start_servers(settings)
        self.log = RunLog(self.folder, self.reporter.say, self.done.step) if self.first else NoLog()
        for line in [*lines, *notes]:
            self.log.line(line)
        if start.name is not None:
            self.log.line(f"resumed from {start.name}")

    def go(self) -> None:
        config, steps = self.config.train, self.loader.steps
        self.log.line(
            f"{len(self.loader.samples)} persons, {config.epochs} epochs of {steps} steps of {config.batch_size}; "
            f"steps {self.done.step} to {steps * config.epochs}{self._how_many()}"
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

    def close(self) -> None:
        """Leave the job's store, together with the other workers."""
        self.group.phase("leaving")
        self.stepper.close()

    def _how_many(self) -> str:
        exchange, group = self.stepper.exchange, self.group
        if exchange is None:
            return ""
        workers = f"{group.size} workers of " if group.launched else ""
        traffic = (
            f", {exchange.bytes_pushed / 1e6:,.1f} MB pushed and {exchange.bytes_pulled / 1e6:,.1f} MB pulled a step"
        )
        return f"; {workers}{len(self.statistics.devices)} devices, {exchange.kind}{traffic if group.launched else ''}"

    def _epoch(self, epoch: int, advance) -> None:
        config, steps = self.config.train, self.loader.steps
        window = _Window(self.names, config.batch_size)
        self.loader.waited = 0.0
        for batch in self.loader.batches(epoch, self.done.step % steps):
            self.group.phase(f"step {self.done.step}")
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
            due = bool(config.checkpoint_steps) and self.done.step % config.checkpoint_steps == 0
            if self.stepper.asynchronous and (self.stepper.stopping or due or last):
                self._meet()
            if self.stepper.stopping:
                self.snapshots.save(self.done)
                raise self._terminated()
            if due and not last:
                self.snapshots.save(self.done)
            elif self.done.step % config.fingerprint_every == 0 and not last and not self.stepper.asynchronous:
                self.snapshots.compare(self.done.step)
        # Saved first: a validation that fails must not cost the epoch.
        self.snapshots.save(self.done)
        self._validate_if_due(epoch)

    def _meet(self) -> None:
        """Asynchronous workers wait for each other and take the servers' weights; they may be asked to stop here."""
        mx.nd.waitall()
        place = {"step": self.done.step, "stop": self.stepper.stopping}
        met = self.group.all("meeting", place)
        self.stepper.exchange.fetch()
        self.group.all("weights taken", None)
        self.stepper.stopping = any(worker["stop"] for worker in met)
        # Where they were asked to stop they stand at different steps: what the slowest lacks is done again.
        self.done.step = min(worker["step"] for worker in met)

    def _name_damage(self) -> None:
        """A line for every damaged picture that was met for the first time; each worker tells of its own."""
        for kind, met in (("skipped", self.loader.bad), ("damaged but whole", self.loader.repaired)):
            for path, reason in met.items():
                if path not in self.named:
                    self.named.add(path)
                    line = f"{kind}: {reason if path in reason else f'{path}: {reason}'}"
                    if self.first:
                        self.log.line(line)
                    else:
                        self.reporter.warn(line)

    def _terminated(self) -> Terminated:
        """To be raised where the last checkpoint is up to date."""
        return Terminated(f"{self.folder}: SIGTERM; stopped after step {self.done.step}, resume to go on")

    def _stop_if_asked(self) -> None:
        self.group.phase(f"validating after step {self.done.step}")
        if self.group.stop_requested:
            raise self._terminated()

    def _validate_if_due(self, epoch: int) -> None:
        config = self.config.train
        due = epoch + 1 == config.epochs or (config.validate_every and (epoch + 1) % config.validate_every == 0)
        if not self.validation or not due or self.done.validated == self.done.step:
            return
        with self.statistics.averaged(self.snapshots.averages()[0]):
            score = self.validation.score(self.log, epoch, self.done.step, self._stop_if_asked)
        self.done.validated = self.done.step
        best = score > self.done.best_score
        if best:
            self.done.best_score, self.done.best_step = score, self.done.step
        self.snapshots.save(self.done, best)

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
