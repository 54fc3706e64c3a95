"""RecordIO files: byte for byte those of MXNet, in both directions, and a clear word for damaged ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import triangle_picture

from msposenet.data.recordio import (
    MAGIC,
    frame,
    index_lines,
    read_index,
    read_records,
    unframe,
    with_header,
    without_header,
)
from msposenet.errors import DataError, PoseError
from msposenet.runtime import mx

PAYLOADS = {
    "nothing": b"",
    "one byte": b"a",
    "four bytes": b"abcd",
    "five bytes": b"abcde",
    "the magic number alone": MAGIC,
    "it begins": MAGIC + b"rest of it",
    "it ends": b"abcd" + MAGIC,
    "it twice in a row": b"abcd" + MAGIC + MAGIC + b"efg",
    "it thrice, apart": b"abcdefgh" + MAGIC + b"ijkl" + MAGIC + b"mnopqrst" + MAGIC + b"u",
    "it at an odd place": b"abc" + MAGIC + b"defgh",
    "it at an odd place, then at an even one": b"a" + MAGIC + b"bcd" + MAGIC + b"e",
    "overlapping beginnings of it": MAGIC[:3] + MAGIC[:1] + MAGIC + MAGIC[:2],
}


def written(folder, payloads):
    """A .rec and .idx file of ours."""
    records = [frame(payload) for payload in payloads]
    lengths = np.array([len(record) for record in records], np.int64)
    rec, idx = folder / "a.rec", folder / "a.idx"
    rec.write_bytes(b"".join(records))
    idx.write_bytes(index_lines(np.cumsum(lengths) - lengths))
    return rec, idx


def test_mxnet_reads_what_is_written_in_any_order(tmp_path):
    payloads = list(PAYLOADS.values())
    rec, idx = written(tmp_path, payloads)
    reader = mx.recordio.MXIndexedRecordIO(str(idx), str(rec), "r")
    assert reader.keys == list(range(len(payloads)))
    for key in [*reversed(reader.keys), *reader.keys]:
        assert reader.read_idx(key) == payloads[key]
    sequential = mx.recordio.MXRecordIO(str(rec), "r")
    # MXNet gives an empty record as the end of the file.
    for payload in payloads:
        assert (sequential.read() or b"") == payload
    assert sequential.read() is None


def test_the_bytes_are_those_that_mxnet_writes(tmp_path):
    payloads = [payload for payload in PAYLOADS.values() if payload]
    rec, idx = written(tmp_path, payloads)
    theirs = mx.recordio.MXIndexedRecordIO(str(tmp_path / "b.idx"), str(tmp_path / "b.rec"), "w")
    for key, payload in enumerate(payloads):
        theirs.write_idx(key, payload)
    theirs.close()
    assert (tmp_path / "b.rec").read_bytes() == rec.read_bytes()
    assert (tmp_path / "b.idx").read_bytes() == idx.read_bytes()
    assert [payload for _, payload in read_records(tmp_path / "b.rec")] == payloads
    assert list(read_index(tmp_path / "b.idx").values()) == [offset for offset, _ in read_records(rec)]


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=12), before=st.binary(max_size=7))
def test_any_payload_comes_back(pieces, before):
    payload = b"".join(pieces)
    record = frame(payload)
    assert len(record) % 4 == 0
    start = len(frame(before))
    assert unframe(frame(before) + record + b"more", "x", start) == (payload, start + len(record))


def test_mxnet_unpacks_labels_and_picture(tmp_path):
    picture, labels = triangle_picture(40, 60), np.array([1.5, -2.0, 3e4], np.float32)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    payload = with_header(labels, 900100184613, encoded)
    header, bgr = mx.recordio.unpack_img(payload)
    assert header.id == 900100184613 and header.flag == 3
    np.testing.assert_array_equal(header.label, labels)
    np.testing.assert_array_equal(bgr[..., ::-1], picture)
    found = without_header(payload, "x")
    np.testing.assert_array_equal(found[0], labels)
    assert found[1:] == (900100184613, encoded)


def test_a_single_label_of_mxnet_is_read():
    labels, number, content = without_header(mx.recordio.pack(mx.recordio.IRHeader(0, 4.0, 7, 0), b"xyz"), "x")
    assert labels.tolist() == [4.0] and number == 7 and content == b"xyz"


WHOLE = frame(b"abcd" + MAGIC + b"efgh")
DAMAGE = {
    "nothing": (b"", "is cut off"),
    "half a header": (WHOLE[:6], "is cut off"),
    "half of the data": (frame(b"abcdefgh")[:-4], "is cut off"),
    "only the first part": (WHOLE[:12], "is cut off"),
    "other magic": (b"\x00" + WHOLE[1:], "no RecordIO record at byte 0"),
    "begins in the middle": (WHOLE[12:], "no RecordIO record at byte 0"),
    "a whole record within another": (WHOLE[:12] + frame(b"ab"), "no RecordIO record at byte 12"),
    "unknown flag": (MAGIC + b"\x00\x00\x00\xe0", "no RecordIO record at byte 0"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(data, message):
    with pytest.raises(DataError, match=rf"here\.rec: .*{message}.*make the file again"):
        unframe(data, "here.rec")


@pytest.mark.parametrize("length", [0, 5, 23, 27])
def test_a_header_cut_short_is_named(length):
    with pytest.raises(DataError, match="here: the record's header is cut off"):
        without_header(with_header(np.arange(2, dtype=np.float32), 1, b"")[:length], "here")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.rec"
    with pytest.raises(DataError, match="no such file"):
        list(read_records(path))
    path.write_bytes(frame(b"whole") + frame(b"cut")[:-1])
    with pytest.raises(DataError, match=r"a\.rec: the record at byte 16 is cut off"):
        list(read_records(path))
    path.write_bytes(b"1\t2\t3\n")
    with pytest.raises(DataError, match="no RecordIO index"):
        read_index(path)


def test_random_damage_raises_nothing_else():
    rng = np.random.default_rng(5)
    record = frame(with_header(np.arange(5, dtype=np.float32), 3, b"abcd" + MAGIC + bytes(range(40))))
    for _ in range(1000):
        damaged = bytearray(record[: rng.integers(len(record) + 1)])
        for place in rng.integers(max(1, len(damaged)), size=3) if damaged else ():
            damaged[place] = rng.integers(256)
        try:
            without_header(unframe(bytes(damaged), "x")[0], "x")
        except PoseError:
            continue
