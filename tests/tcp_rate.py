"""How fast one host of tests/several_hosts.py gets bytes to another through TCP."""

from __future__ import annotations

import subprocess
import sys

from several_hosts import Network

PORT = 7000
PAYLOAD_SHARE = 1448 / 1514  # of an Ethernet frame with TCP/IPv4 and time stamps

# The first bytes fill buffers and token buckets, so the clock starts after a while.
RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
connection, _ = server.accept()
buffer, count, begin = bytearray(1 << 20), 0, None
accepted = time.monotonic()
while True:
    size = connection.recv_into(buffer)
    now = time.monotonic()
    if not size:
        break
    if begin is not None:
        count, last = count + size, now
    elif now - accepted > float(sys.argv[3]):
        begin = now
print(count * 8e-6 / (last - begin))
"""
SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    connection.sendall(bytes(1 << 16))
"""


def payload_mbit(net: Network, source: int, target: int, seconds: float = 1.0, warm_up: float = 0.3) -> float:
    """10^6 bit/s of payload that arrive while one connection is kept full for `seconds` after `warm_up`."""
    python = [sys.executable, "-S", "-c"]
    address = [net.addresses[target], PORT]
    with net.start(target, [*python, RECEIVE, *address, warm_up], stdout=subprocess.PIPE, text=True) as receiver:
        try:
            receiver.stdout.readline()
            net.run(source, [*python, SEND, *address, warm_up + seconds], check=True)
            return float(receiver.communicate(timeout=30)[0])
        finally:
            receiver.kill()
