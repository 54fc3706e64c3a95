"""A wire with a delay: carries Ethernet frames between two TAP devices, each frame `delay` milliseconds late.

    python frame_relay.py TAP_A TAP_B DELAY_MS        further delays are lines on standard input; ends with it

For kernels without netem. Frames pass with their offload header, so the 64 KB segments of TCP stay whole and Python
carries hundreds of Mbit/s.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUN = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
LARGEST_FRAME = 1 << 17
QUEUE_BYTES = 64 << 20  # of one direction; what comes on top is lost, as in a switch
READS_A_TURN = 32


def open_tap(name: str) -> int:
    """Descriptor of the TAP device `name`, made if absent; frames start with a virtio-net header of 10 bytes."""
    tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
    return tap


class Direction:
    """Frames on their way from one descriptor to another."""

    def __init__(self, source: int, target: int):
        self.source, self.target = source, target
        self.frames: deque = deque()  # (when due, frame)
        self.bytes = 0

    def take(self, delay: float) -> None:
        for _ in range(READS_A_TURN):
            try:
                frame = os.read(self.source, LARGEST_FRAME)
            except OSError:  # none waiting, or the device is down
                return
            if self.bytes + len(frame) <= QUEUE_BYTES:
                self.frames.append((time.monotonic() + delay, frame))
                self.bytes += len(frame)

    def give(self) -> None:
        now = time.monotonic()
        while self.frames and self.frames[0][0] <= now:
            _, frame = self.frames.popleft()
            self.bytes -= len(frame)
            try:
                os.write(self.target, frame)
            except OSError:  # full or down: lost, as on a wire
                continue


def relay(tap_a: int, tap_b: int, delay_ms: float, control: int) -> None:
    """Carry frames both ways until `control` closes; a line on it is a new delay in milliseconds."""
    delay = delay_ms / 1000
    ways = {tap_a: Direction(tap_a, tap_b), tap_b: Direction(tap_b, tap_a)}
    while True:
        due = [way.frames[0][0] for way in ways.values() if way.frames]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select([control, *ways], [], [], timeout)
        for descriptor in readable:
            if descriptor != control:
                ways[descriptor].take(delay)
                continue
            text = os.read(control, 4096)
            if not text:
                return
            delay = float(text.split()[-1]) / 1000
        for way in ways.values():
            way.give()


if __name__ == "__main__":
    relay(open_tap(sys.argv[1]), open_tap(sys.argv[2]), float(sys.argv[3]), sys.stdin.fileno())
