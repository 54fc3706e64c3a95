"""Messages of the control channel: a JSON object and bytes behind it. Nothing in a message is ever executed."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

_LENGTHS = struct.Struct("!IQ")  # of the JSON object, of the bytes behind it
_MOST_JSON = 16 << 20
_MOST_BYTES = 8 << 30


class Broken(Exception):
    """The connection ended, or what came is no message."""


def send(connection: socket.socket, message: dict[str, Any], data: bytes = b"") -> None:
    """Send one message; one thread at a time. Raises Broken."""
    text = json.dumps(message).encode("ascii")
    try:
        connection.sendall(_LENGTHS.pack(len(text), len(data)) + text)
        if data:
            connection.sendall(data)
    except OSError as error:
        raise Broken(str(error)) from None


def receive(
    connection: socket.socket, most: int = _MOST_BYTES, heard: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], bytes]:
    """The next message, with at most `most` bytes behind it; `heard` is called as parts of it come. Raises Broken."""
    lengths = _LENGTHS.unpack(_read(connection, _LENGTHS.size, heard))
    if lengths[0] > _MOST_JSON or lengths[1] > most:
        raise Broken("what came is no message of a training")
    try:
        message = json.loads(bytes(_read(connection, lengths[0], heard)))
    except (ValueError, RecursionError):
        raise Broken("what came is no message of a training") from None
    if not isinstance(message, dict):
        raise Broken("what came is no message of a training")
    return message, bytes(_read(connection, lengths[1], heard))


def _read(connection: socket.socket, count: int, heard: Callable[[], None]) -> bytearray:
    data = bytearray(count)
    rest = memoryview(data)
    while rest:
        try:
            got = connection.recv_into(rest)
        except OSError as error:
            raise Broken(str(error)) from None
        if not got:
            raise Broken("the connection was closed")
        heard()
        rest = rest[got:]
    return data
