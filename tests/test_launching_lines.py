"""Bytes of a process's output -> lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msposenet.launching.lines import LONGEST, LineSplitter


def _lines(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.end()


@pytest.mark.parametrize(
    "pieces, lines",
    [
        ((b"one\ntwo\n",), ["one", "two"]),
        ((b"on", b"e\ntw", b"o"), ["one", "two"]),
        ((b"\n\n",), ["", ""]),
        ((b"windows\r\nlines\r", b"\nend"), ["windows", "lines", "end"]),
        ((b"10 %\r20 %\r", b"30 %\r", b"100 %\nnext\n"), ["100 %", "next"]),
        ((b"10 %\r20 %",), ["20 %"]),
        ((b"10 %\r",), ["10 %"]),
        ((b"\xc3", b"\xa9\n"), ["é"]),
        ((b"a\xffb\xc3\n",), ["a�b�"]),
        ((b"cut \xe2\x82",), ["cut �"]),
        ((b"x" * (2 * LONGEST + 3) + b"\n",), ["x" * LONGEST, "x" * LONGEST, "xxx"]),
        ((b"x" * LONGEST, b"y\n"), ["x" * LONGEST, "y"]),
        ((), []),
    ],
)
def test_lines(pieces, lines):
    assert _lines(*pieces) == lines


def test_a_stream_without_line_ends_is_not_kept():
    splitter = LineSplitter()
    seen = sum(len(line) for _ in range(100) for line in splitter.feed(b"x" * 10000))
    assert seen >= 100 * 10000 - LONGEST
    assert sum(map(len, splitter.end())) == 100 * 10000 - seen


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",))), st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_the_pieces(text, cuts):
    data = text.encode()
    places = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    pieces = [data[start:end] for start, end in zip(places, places[1:])]
    whole = text.split("\n")
    assert _lines(*pieces) == (whole if whole[-1] else whole[:-1])
