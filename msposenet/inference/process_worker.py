"""One process of `Processes`: `python -m msposenet.inference.process_worker DESCRIPTOR` (of a connected socket)."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from msposenet.config import Config, SkeletonConfig
from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.distributed.frames import Broken, receive, send
from msposenet.errors import PeerError, PoseError


def main(descriptor: int) -> None:
    """Open the model that the first message names, then answer crops with keypoints until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one decides
    with socket.socket(fileno=descriptor) as connection:
        try:
            _serve(connection)
        except Broken:
            pass  # whoever asked has left
        except PoseError as error:
            send(connection, {"error": str(error), "kind": type(error).__name__})
        except Exception as error:  # told before the process ends: its exit code says nothing
            send(connection, {"error": f"{type(error).__name__}: {error}", "kind": PeerError.__name__})
    os._exit(0)  # MXNet's own way out takes long, and nothing is left to be saved


def _serve(connection: socket.socket) -> None:
    order, _ = receive(connection)
    opened = _open(order)
    engine = opened.engine
    about = {
        "skeleton": SkeletonConfig.of(engine.skeleton).model_dump(mode="json"),
        "input_wh": list(engine.input_wh),
        "convention": engine.convention.value,
        "enlarge": opened.enlarge,
        "batch_size": engine.batch_size,
    }
    send(connection, about)
    while True:
        _, data = receive(connection)
        arrays = unpack_arrays(data)
        keypoints = engine.keypoints(arrays["crops"], arrays["centers"], arrays["sizes"])
        send(connection, {"is": "keypoints"}, pack_arrays({"keypoints": keypoints}))


def _open(order: dict[str, Any]):
    from msposenet.inference.opened import open_engine  # MXNet loads here, where its errors are told

    config = None if order["config"] is None else Config.model_validate(order["config"])
    return open_engine(order["model"], order["weights"], "cpu", order["flip"], order["batch_size"], config=config)


if __name__ == "__main__":
    main(int(sys.argv[1]))
