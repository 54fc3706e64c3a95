"""What the workers of a job make sure of: that they train the same thing, from the same weights, and stay equal."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msposenet.config import Config, build_config
from msposenet.data.records import Records
from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.distributed.group import Group
from msposenet.errors import ConfigError, DataError, DivergedError
from msposenet.runtime import mx
from msposenet.training.checkpoint import Checkpoint, fingerprint
from msposenet.training.run import differences

_CHUNK = 32 << 20  # bytes of arrays that travel in one message
_NAMED = 5


@dataclass(frozen=True)
class Start:
    """Where a run begins: a checkpoint's name (None: at step 0), its arrays by name and its state."""

    name: str | None
    params: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    state: Mapping[str, Any]


def agree_on_settings(group: Group, config: Config, people: Sequence[Records]) -> None:
    """Raise ConfigError or DataError, on every worker, unless all have worker 0's configuration and people.

    people: those trained on, then those of each validation set, whose rows the workers share.
    """
    if group.size == 1:
        return
    first = build_config(json.loads(group.share("configuration", config.model_dump_json().encode())), "worker 0")
    for rank, found in enumerate(group.all("settings", differences(first, config))):
        if found:
            raise ConfigError(
                f"worker {rank} has another configuration than worker 0: {'; '.join(found[:_NAMED])}; give every "
                "process of the job the same file and options"
            )
    own = [[len(records), _digest(records)] for records in people]
    everybody = group.all("people", own)
    for rank, theirs in enumerate(everybody):
        if theirs != everybody[0]:
            kind = "train on" if theirs[:1] != everybody[0][:1] else "validate on"
            counts = " and ".join(str(sum(count for count, _ in sets)) for sets in (theirs, everybody[0]))
            raise DataError(
                f"worker {rank} has other people to {kind} than worker 0 ({counts} persons in all); give every host "
                "the same annotations and detections"
            )


def agree_on_devices(group: Group, devices: Sequence[mx.Context]) -> None:
    """Raise ConfigError, on every worker, unless all have as many devices: each divides the sum by their number."""
    everybody = group.all("devices", [len(devices), devices[0].device_type])
    for rank, theirs in enumerate(everybody):
        if theirs != everybody[0]:
            raise ConfigError(
                f"train.devices: worker {rank} has {theirs[0]} x {theirs[1]}, worker 0 has {everybody[0][0]} x "
                f"{everybody[0][1]}; name as many on every host, or start one worker a device"
            )


def _digest(records: Records) -> str:
    sha = hashlib.sha256()
    for array in (records.image_ids, records.image_index, records.boxes, records.keypoints):
        sha.update(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    return sha.hexdigest()


def share_start(group: Group, found: Checkpoint | None, params: Mapping[str, np.ndarray]) -> Start:
    """Rank 0's start, on every worker: of the checkpoint it found, else at step 0 with its `params`.

    Only rank 0 needs to see the run's directory; the others' arguments are not looked at.
    """
    if group.rank == 0:
        heading = {"name": found.path.name if found else None, "state": found.state if found else {}}
        share = json.loads(group.share("start", json.dumps(heading).encode()))
        arrays = (found.params, found.optimizer) if found else (params, {})
        parts = [_share_arrays(group, what, part) for what, part in zip(("weights", "optimizer"), arrays)]
    else:
        share = json.loads(group.share("start", None))
        parts = [_share_arrays(group, what, {}) for what in ("weights", "optimizer")]
    return Start(share["name"], parts[0], parts[1], share["state"])


def _share_arrays(group: Group, what: str, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if group.rank == 0:
        chunks = list(_chunks(arrays))
        group.share(f"number of {what}", str(len(chunks)).encode())
        for chunk in chunks:
            group.share(what, pack_arrays(chunk))
            group.all(f"{what} taken", None)  # else all of them would pile up on the way
        return arrays
    received: dict[str, np.ndarray] = {}
    for _ in range(int(group.share(f"number of {what}", None))):
        received.update(unpack_arrays(group.share(what, None)))
        group.all(f"{what} taken", None)
    return received


def _chunks(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    chunk: dict[str, np.ndarray] = {}
    size = 0
    for name, array in arrays.items():
        if chunk and size + array.nbytes > _CHUNK:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = array
        size += array.nbytes
    if chunk:
        yield chunk


def compare_weights(group: Group, weights: Mapping[str, np.ndarray], step: int) -> None:
    """Raise DivergedError, on every worker, unless all hold the same bits at this step.

    Synchronous workers make the same updates and cannot differ; MXNet's lazy broadcast, bad memory or a library that
    sums in another order make them, and a checkpoint of rank 0 would hide it.
    """
    marks = group.all(f"fingerprint of step {step}", fingerprint(weights))
    odd = [rank for rank, mark in enumerate(marks) if mark != marks[0]]
    if not odd:
        return
    sums = group.all(
        f"checksums of step {step}", {name: zlib.crc32(array.tobytes()) for name, array in weights.items()}
    )
    names = [name for name in weights if any(sums[rank].get(name) != sums[0].get(name) for rank in odd)]
    raise DivergedError(
        f"at step {step} the weights of workers {odd} are not worker 0's (first in {', '.join(names[:_NAMED])}; "
        f"{len(names)} of {len(weights)} arrays); nothing was saved, resume from the last checkpoint. Look for hosts "
        "with other hardware, libraries or OMP_NUM_THREADS, and for bad memory"
    )
