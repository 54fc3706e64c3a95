"""Bytes of a process's output -> lines of text. Standard library only."""

from __future__ import annotations

import codecs

LONGEST = 8192  # characters of a line; a longer one is cut into several


class LineSplitter:
    """Lines of a stream that comes in pieces: bounded, decoded as UTF-8 with what is invalid replaced.

    A carriage return goes back to the start of its line as on a terminal, so of a progress bar its last state is left.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = (self._rest + self._decode(data)).split("\n")
        lines = [piece for line in whole for piece in _pieces(_last_state(line))]
        # A carriage return at the very end may belong to a line end of Windows: what precedes it is still needed.
        rest = _last_state(rest[:-1]) + "\r" if rest.endswith("\r") else _last_state(rest)
        while len(rest) > LONGEST:
            lines.append(rest[:LONGEST])
            rest = rest[LONGEST:]
        self._rest = rest
        return lines

    def end(self) -> list[str]:
        """What is left when the stream has ended without a final newline."""
        rest = self._rest + self._decode(b"", True)
        self._rest = ""
        return _pieces(_last_state(rest)) if rest else []


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


def _pieces(line: str) -> list[str]:
    return [line[start : start + LONGEST] for start in range(0, max(len(line), 1), LONGEST)]
