"""What processes of the distributed tests run besides `msposenet train`; tests/distributed_jobs.py starts them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from people_set import records_of, tiny_config

from msposenet.config import AugmentationConfig, TrainConfig
from msposenet.data.loader import TrainingLoader
from msposenet.data.samples import TrainingSamples
from msposenet.devices import contexts
from msposenet.distributed.group import Alone, Group
from msposenet.distributed.roles import find_place
from msposenet.distributed.serving import SET_UPDATER
from msposenet.distributed.store import GradientExchange, choose_kvstore
from msposenet.distributed.taking_part import take_part
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.runtime import mx
from msposenet.training.loop import train
from msposenet.training.optimizer import make_server_updater
from msposenet.training.schedule import learning_rate
from msposenet.training.step import Stepper

BATCH, EPOCHS = 8, 3
# In between the norms of the small network's gradients: some steps are clipped and some are not.
CLIP_NORM = 0.45
_TIMEOUT, _START_TIMEOUT = 30.0, 60.0


def _in_a_job(work: Callable[[Group], None]) -> None:
    place = find_place()
    if place is None:
        work(Alone())
    else:
        take_part(place, _TIMEOUT, _START_TIMEOUT, work, make_server_updater)


class SmallNetwork(mx.gluon.HybridBlock):
    """Loss terms (2,), means over a batch, of joints read off a crop; without batch normalisation."""

    def __init__(self) -> None:
        super().__init__(prefix="")
        nn = mx.gluon.nn
        self.layers = nn.HybridSequential(prefix="")
        self.layers.add(
            nn.Conv2D(8, 5, strides=4, in_channels=3, activation="relu"),
            nn.Conv2D(16, 3, strides=3, in_channels=8, activation="relu"),
            nn.Dense(34, in_units=16 * 25),
        )

    def hybrid_forward(self, F, crops, joints, weights):
        x = F.transpose(F.cast(crops, "float32"), axes=(0, 3, 1, 2)) / 255
        found = F.reshape(self.layers(x), shape=(0, -1, 2))
        error = F.broadcast_mul(found - joints / 64, F.expand_dims(weights, 2))
        return F.concat(F.mean(F.square(error)).reshape((1,)), 0.01 * F.mean(F.abs(found)).reshape((1,)), dim=0)

    def begin(self, devices) -> None:
        """The same weights everywhere, whoever draws them."""
        rng = np.random.default_rng(5)
        for parameter in self.collect_params().values():
            if parameter._data is None:
                parameter.initialize(ctx=devices)
            parameter.set_data(mx.nd.array(rng.normal(0, 0.05, parameter.shape)))
        mx.nd.waitall()


def train_small(folder: str, annotations: str, *devices: str) -> None:
    """Some epochs with gradients clipped and as many without, through the loader, the Stepper and the job's store.

    Each worker writes rankN.npz: weights by "clip:device:name", terms "clip:terms" (steps, T), and the samples it was
    given, "clip:indices" and "clip:images" (steps, samples).
    """

    def work(group: Group) -> None:
        found, chosen = {}, contexts(devices or ("cpu",))
        samples = TrainingSamples(
            records_of(Path(annotations)), (64, 64), Convention.UNBIASED, AugmentationConfig(), seed=1
        )
        net = SmallNetwork()
        net.begin(chosen)
        net.hybridize(static_alloc=True, static_shape=True)
        parameters = net._collect_params_with_prefix()
        loader = TrainingLoader(samples, BATCH, rank=group.rank, ranks=group.size)
        kind = choose_kvstore("auto", chosen, group)
        plain = Stepper(net, parameters, chosen, BATCH, None, group=group, kvstore=kind)
        clipped = Stepper(net, parameters, chosen, BATCH, CLIP_NORM, group=group)
        clipped.exchange = plain.exchange  # a job has one store
        options = TrainConfig(base_lr=1e-3, lr_drops=(2,), epochs=EPOCHS)
        for name, stepper in (("plain", plain), ("clipped", clipped)):
            net.begin(chosen)
            terms, indices, images = [], [], []
            for epoch in range(EPOCHS):
                for batch in loader.batches(epoch):
                    step = len(terms)
                    terms.append(stepper(batch, learning_rate(step, loader.steps, options), step))
                    indices.append(batch.indices.copy())
                    images.append(batch.image_ids.copy())
            mx.nd.waitall()
            found.update({f"{name}:terms": terms, f"{name}:indices": indices, f"{name}:images": images})
            for title, parameter in parameters.items():
                for device, array in enumerate(parameter.list_data()):
                    found[f"{name}:{device}:{title}"] = array.asnumpy()
        plain.close()
        np.savez(Path(folder) / f"rank{group.rank}.npz", **{name: np.array(array) for name, array in found.items()})

    _in_a_job(work)


REFUSED = (
    {"kvstore": "device"},
    {"kvstore": "local"},
    {"kvstore": "nccl"},
    {"batch_size": 7},
    {"batch_size": 6, "devices": ["cpu:0", "cpu:1"]},
)


def be_refused(folder: str, annotations: str) -> None:
    """Trainings that a job of two workers cannot do, one after the other; what was said goes to rankN.json.

    The last one is left to end the job as it would any other.
    """

    def work(group: Group) -> None:
        said = []
        for options in REFUSED:
            try:
                train(tiny_config(Path(annotations), train=options), Path(folder) / "run", group=group)
                said.append("trained")
            except ConfigError as error:
                said.append(str(error))
        (Path(folder) / f"rank{group.rank}.json").write_text(json.dumps(said))
        last = tiny_config(Path(annotations), train={"kvstore": "dist_async", "compression": 0.5})
        train(last, Path(folder) / "run", group=group)

    _in_a_job(work)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def send_a_pickle(folder: str) -> None:
    """What MXNet's own set_optimizer sends, to our servers; a store of another size than the group's before it."""

    def work(group: Group) -> None:
        parameter = mx.gluon.Parameter("weight", shape=(3,))
        parameter.initialize(ctx=mx.cpu())
        try:
            GradientExchange("dist_sync", [parameter], Alone())
        except ConfigError as error:
            (Path(folder) / f"rank{group.rank}.txt").write_text(str(error))
            frame = error.__traceback__
            while "store" not in frame.tb_frame.f_locals:
                frame = frame.tb_next
            store = frame.tb_frame.f_locals["store"]  # a process can make one only
        if group.rank == 0:
            store._send_command_to_servers(SET_UPDATER, pickle.dumps(Hostile(f"{folder}/made"), 0).decode("ascii"))
        group.all("never", None)

    _in_a_job(work)
