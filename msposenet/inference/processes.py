"""Several processes, each with the model and its share of the cores, behind one engine: more crops a second.

Threads that share one crop wait for each other at every layer; processes with crops of their own do not. A process
costs the memory of a model.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from msposenet import errors, geometry
from msposenet.config import Config, SkeletonConfig
from msposenet.cores import physical_cores
from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.distributed.frames import Broken, receive, send
from msposenet.errors import PeerError, PoseError
from msposenet.geometry import Convention
from msposenet.inline import ENGINE, INLINE

WORKER = "msposenet.inference.process_worker"
_FEW = 3  # seconds that a process has for leaving


class Processes:
    """An engine that deals crops out to processes on this machine; results do not depend on their number.

    The arguments are those of `open_engine`. Raises what a process raises when it opens the model (ConfigError,
    CheckpointError), PeerError when one is lost.
    """

    def __init__(
        self,
        model: str | Path,
        weights: str | Path | None,
        flip: bool | None,
        batch_size: int | None,
        config: Config | None,
        processes: int,
    ) -> None:
        order = {
            "model": str(model),
            "weights": None if weights is None else str(weights),
            "flip": flip,
            "batch_size": batch_size,
            "config": None if config is None else config.model_dump(mode="json"),
        }
        threads = max(1, physical_cores() // processes)
        self._links: list[_Link] = []
        weakref.finalize(self, _end, self._links)
        for _ in range(processes):
            self._links.append(_start(threads))
        for link in self._links:
            link.send(order)
        answers = [link.receive()[0] for link in self._links]
        about = answers[0]
        self.skeleton = SkeletonConfig.model_validate(about["skeleton"]).build()
        self.input_wh = (about["input_wh"][0], about["input_wh"][1])
        self.convention = Convention(about["convention"])
        self.enlarge = about["enlarge"]
        self._each = about["batch_size"]
        self.batch_size = self._each * processes

    def crops(self, image: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """As `Engine.crops`."""
        return geometry.cut_crops(image, centers, sizes, self.input_wh, self.convention)

    def keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """As `Engine.keypoints`; each process gets an equal part. Raises PeerError when one is lost, and ends all."""
        try:
            return self._keypoints(crops, centers, sizes)
        except BaseException:
            self.close()  # answers would come to the wrong questions from now on
            raise

    def _keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        found = [np.zeros((0, self.skeleton.num_joints, 3), np.float32)]
        for start in range(0, len(crops), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(crops)))
            parts = [part for part in np.array_split(rows, len(self._links)) if len(part)]
            for link, part in zip(self._links, parts):
                arrays = {"crops": crops[part], "centers": centers[part], "sizes": sizes[part]}
                link.send({"do": "keypoints"}, pack_arrays(arrays))
            found += [unpack_arrays(link.receive()[1])["keypoints"] for link, _ in zip(self._links, parts)]
        return np.concatenate(found)

    def close(self) -> None:
        """End the processes; what Python does anyway when the engine is no longer used."""
        _end(self._links)


class _Link:
    """One process and the connection to it."""

    def __init__(self, process: subprocess.Popen, connection: socket.socket) -> None:
        self.process, self.connection = process, connection

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        try:
            send(self.connection, message, data)
        except Broken:
            raise self._lost() from None

    def receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            message, data = receive(self.connection)
        except Broken:
            raise self._lost() from None
        if "error" in message:
            kind = getattr(errors, message["kind"], PoseError)
            raise kind(message["error"])
        return message, data

    def _lost(self) -> PeerError:
        try:
            code = self.process.wait(_FEW)
        except subprocess.TimeoutExpired:
            code = None
        return PeerError(
            f"process {self.process.pid} that estimates poses was lost (exit code {code}; -9 is often a full memory): "
            "use fewer processes"
        )


def _start(threads: int) -> _Link:
    ours, theirs = socket.socketpair()
    # Their computing threads share the cores, so idle ones must not spin.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", ENGINE: INLINE}
    command = [sys.executable, "-m", WORKER, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return _Link(process, ours)


def _end(links: list[_Link]) -> None:
    for link in links:
        link.connection.close()  # upon which the process leaves
    for link in links:
        try:
            link.process.wait(_FEW)
        except subprocess.TimeoutExpired:
            link.process.kill()
            link.process.wait()
