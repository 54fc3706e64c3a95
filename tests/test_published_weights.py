"""Published weights: the table, the page that shows it, the cache with its downloads, and networks filled from them.

The server is a real one, on this machine. Networks are small ones under a tag of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import re
import shlex
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from documents import PROJECT, table
from faults import run_python
from torch_pickles import write_pth

from msposenet.config import load_config
from msposenet.errors import CheckpointError, ConfigError, PoseError, StorageError
from msposenet.models.zoo import get_model, model_info
from msposenet.progress import Reporter
from msposenet.skeletons import get_skeleton
from msposenet.weights import cache
from msposenet.weights import published as table_module
from msposenet.weights.cache import cache_folder, fetch, find_file
from msposenet.weights.published import find_published, published, tags_for

ROWS = published()
QUIET = Reporter(quiet=True)


# The table


def test_tags_and_files_are_told_apart():
    assert len({row.tag for row in ROWS}) == len({row.file for row in ROWS}) == len(ROWS) > 50
    for row in ROWS:
        assert re.fullmatch(r"[a-z0-9_]+", row.tag) and re.fullmatch(r"[\w.-]+\.(pth|params)", row.file)


@pytest.mark.parametrize("row", ROWS, ids=[row.tag for row in ROWS])
def test_a_row_says_what_its_command_does(row):
    words = shlex.split(row.command)
    assert words[0] == "msposenet" and row.file in words
    if words[1] == "import":
        assert words == ["msposenet", "import", row.file]
        return
    overrides = tuple(word for flag, word in zip(words, words[1:]) if flag == "--set")
    config = load_config(PROJECT / words[2], overrides)
    trunk = config.model.name
    assert row.model in (trunk, f"{trunk}_cls") and model_info(row.model).width == int(
        re.search(r"_w(\d+)", row.tag)[1]
    )
    if words[1] == "train":
        assert words[-2:] == ["--init-from", row.file] and row.metric == "top-1 error" and row.boxes is None
        return
    assert words[1] == "eval"
    assert (config.data.input, config.data.skeleton, config.codec.convention) == (
        row.input_hw,
        row.skeleton,
        row.convention,
    )
    assert config.codec.sigma == (3.0 if row.input_hw[0] == 384 else 2.0)
    assert config.codec.decoder == {"dark": "dark", "udp": "udp"}.get(row.tag.rsplit("_", 1)[1], "quarter")
    assert (f"--boxes {table_module.DETECTIONS_56}" in row.command) == (row.boxes == table_module.DETECTOR_56)
    assert config.data.val[0].format == ("mpii" if row.skeleton == "mpii16" else "coco")


def test_hashes_and_addresses_fit_the_file_names():
    for row in ROWS:
        assert row.url is None or row.url.startswith("https://")
        assert row.url is None or row.sha256 or row.sha1, f"{row.tag} would be fetched without a check"
        for digest in (row.sha256, row.sha1):
            assert digest is None or (re.fullmatch("[0-9a-f]{8,64}", digest) and digest[:8] in row.file)
        if row.url and not row.sha1:
            assert row.url.rsplit("/", 1)[1] == row.file
        if row.skeleton:
            get_skeleton(row.skeleton)
        assert row.expected is None or 0 < row.expected < 100


def test_the_figures_of_the_papers_are_there():
    figures = {row.file: (row.expected, row.boxes) for row in ROWS}
    assert figures["pose_hrnet_w32_256x192.pth"] == (74.4, "detector of 56.4 person AP")
    assert figures["pose_hrnet_w48_384x288.pth"] == (76.3, "detector of 56.4 person AP")
    assert figures["pose_hrnet_w32_256x256.pth"] == (90.3, "annotated")
    assert figures["pose_higher_hrnet_w32_512.pth"] == (67.1, "none (bottom-up)")


def test_an_unknown_tag_gets_the_nearest_ones():
    assert find_published("hrnet_w32_coco_256x192").file == "pose_hrnet_w32_256x192.pth"
    with pytest.raises(ConfigError, match="did you mean hrnet_w32_coco_256x192"):
        find_published("hrnet_w32_coco_256x129")
    assert tags_for("mspn_r50x2") == ["mspn_r50x2_coco_256x192"]


def shown(row) -> list[str]:
    """A row as the page has it."""
    digest = f"`{row.sha256}`" if row.sha256 else f"`{row.sha1[:8]}` (SHA-1)" if row.sha1 else "not published"
    figure = "not published" if row.expected is None else f"{row.expected:.1f} {row.metric}"
    size = f"{row.input_hw[0]}x{row.input_hw[1]}"
    place = row.source.removeprefix("https://")
    how = "fetched" if row.url else "by hand"
    return [
        f"`{row.tag}`", f"`{row.file}`", f"`{row.model}`", size, f"{place}, {how}", digest, f"{figure}, {row.data}",
        row.boxes or "-", f"`{row.command}`",
    ]  # fmt: skip


def test_the_page_shows_the_table():
    assert table("docs/weights.md", "tag") == [shown(row) for row in ROWS]


# The cache


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = self.server.files.get(self.path.lstrip("/"))
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.server.cut else body)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no mirror from outside."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.delenv(cache.MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "mxnet" / "models"


BODY = bytes(range(256)) * 9000  # over a block long


@pytest.fixture
def row(server, monkeypatch):
    """A row whose file the server has."""
    sha256 = hashlib.sha256(BODY).hexdigest()
    made = dataclasses.replace(
        find_published("hrnet_w32_coco_256x192_mmpose"),
        tag="here",
        file="here.pth",
        url=f"{server.url}/here.pth",
        sha256=sha256[:8],
    )
    server.files["here.pth"] = BODY
    monkeypatch.setattr(table_module, "_TABLE", (made, *ROWS))
    return made


def change(row, monkeypatch, **fields) -> None:
    monkeypatch.setattr(table_module, "_TABLE", (dataclasses.replace(row, **fields), *ROWS))


def test_a_file_is_fetched_once(home, server, row, capsys):
    assert cache_folder() == home
    path = fetch("here")
    assert path == home / "here.pth" and path.read_bytes() == BODY
    assert server.asked == ["/here.pth"] and f"{server.url}/here.pth" in capsys.readouterr().err
    assert fetch("here", QUIET) == path and find_file("here", QUIET) == path
    assert server.asked == ["/here.pth"]
    assert [file.name for file in home.iterdir()] == ["here.pth"]


def test_the_folder_is_that_of_mxnet(monkeypatch, tmp_path):
    monkeypatch.delenv("MXNET_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".mxnet" / "models"


def broken(case: str, server, row, monkeypatch) -> str:
    """Spoil the download; what the error must say."""
    if case == "404":
        server.files.clear()
        return "here.pth: the server answers 404 Not Found"
    if case == "page":
        server.files["here.pth"] = b"\n<!DOCTYPE html><title>Google Drive - Virus scan warning</title>"
        return "answers with a web page"
    if case == "cut":
        server.cut = True
        return f"{len(BODY) // 2:,} of {len(BODY):,} bytes came|cannot be fetched .IncompleteRead"
    if case == "other content":
        server.files["here.pth"] = BODY[:-1] + b"x"
        return f"not the published file: its SHA256 is {hashlib.sha256(BODY[:-1] + b'x').hexdigest()[:16]}"
    if case == "nothing":
        server.files["here.pth"] = b""
        return "0 of 0 bytes came"
    if case == "silence":
        change(row, monkeypatch, url="http://127.0.0.1:9/here.pth")
        return "cannot be fetched .*refused"
    if case == "no zip":
        server.files["here.zip"] = BODY
        change(row, monkeypatch, url=f"{server.url}/here.zip")
        return "no zip archive with here.pth in it"
    if case == "too long":
        monkeypatch.setattr(cache, "_LARGEST", 1000)
        return "over 1,000 bytes"
    raise AssertionError(case)


@pytest.mark.parametrize("case", ["404", "page", "cut", "other content", "nothing", "silence", "no zip", "too long"])
def test_a_download_that_fails_leaves_nothing(home, server, row, monkeypatch, case):
    said = broken(case, server, row, monkeypatch)
    with pytest.raises(CheckpointError, match=said):
        fetch("here", QUIET)
    assert list(home.iterdir()) == []


def test_a_server_that_says_nothing_is_given_up(home, server, row, monkeypatch):
    import socket

    monkeypatch.setattr(cache, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        change(row, monkeypatch, url=f"http://127.0.0.1:{mute.getsockname()[1]}/here.pth")
        with pytest.raises(CheckpointError, match=r"cannot be fetched .timed out"):
            fetch("here", QUIET)


def test_a_file_that_became_another_is_noticed_and_kept(home, server, row):
    path = fetch("here", QUIET)
    path.write_bytes(BODY + b"x")
    with pytest.raises(CheckpointError, match=r"here.pth: is not the published file.*delete it"):
        fetch("here", QUIET)
    assert path.exists() and len(server.asked) == 1


def test_a_full_disk_is_no_fault_of_the_network(home, server, row, tmp_path):
    code = (
        "import resource, sys, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from msposenet.errors import StorageError\nfrom msposenet.progress import Reporter\n"
        "from msposenet.weights import cache, published\nimport dataclasses\n"
        "row = dataclasses.replace(published.published()[0], tag='here', url=sys.argv[1], file='here.pth')\n"
        "published._TABLE = (row,)\n"
        "try:\n    cache.fetch('here', Reporter(True))\n"
        "except StorageError as error:\n    sys.exit('ulimit' not in str(error))\n"
        "sys.exit('no error')\n"
    )
    run = run_python(code, row.url)
    assert run.returncode == 0, run.stderr
    assert list(home.iterdir()) == []


def test_gluoncv_files_come_out_of_their_archives(home, server, row, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("here.params", BODY)
    server.files["here.zip"] = buffer.getvalue()
    sha1 = hashlib.sha1(BODY).hexdigest()
    change(row, monkeypatch, url=f"{server.url}/here.zip", file="here.params", sha256=None, sha1=sha1)
    assert fetch("here", QUIET).read_bytes() == BODY
    (home / "here.params").unlink()
    change(row, monkeypatch, url=f"{server.url}/here.zip", file="here.params", sha256=None, sha1="0" * 40)
    with pytest.raises(CheckpointError, match="SHA1"):
        fetch("here", QUIET)
    assert list(home.iterdir()) == []


def test_a_file_from_a_browser_is_asked_for_and_then_found(home, server, row, monkeypatch):
    change(row, monkeypatch, url=None, sha256=None)
    with pytest.raises(
        CheckpointError, match=rf"through a browser only: get it from {row.source} and save it as .*here.pth"
    ):
        fetch("here", QUIET)
    home.mkdir(parents=True)
    (home / "here.pth").write_bytes(b"anything")
    assert fetch("here", QUIET) == home / "here.pth"
    assert server.asked == []


def test_a_mirror_comes_before_the_publisher(home, server, row, monkeypatch, capsys):
    monkeypatch.setenv(cache.MIRROR_VARIABLE, f"{server.url}/mirror/")
    server.files["mirror/here.pth"] = BODY
    fetch("here", QUIET)
    assert server.asked == ["/mirror/here.pth"]
    tag, file = "hrnet_w32_coco_256x192", "pose_hrnet_w32_256x192.pth"  # published without a hash
    server.files[f"mirror/{file}"] = BODY
    assert fetch(tag, QUIET).read_bytes() == BODY
    assert (
        f"{file}: no hash is published to check it by; its SHA-256 is {hashlib.sha256(BODY).hexdigest()}"
        in capsys.readouterr().err
    )
    monkeypatch.setenv(cache.MIRROR_VARIABLE, "/just/a/folder")
    with pytest.raises(ConfigError, match=r"MSPOSENET_MIRROR: '/just/a/folder.* is no URL"):
        fetch("hrnet_w48_coco_256x192", QUIET)


def test_the_users_own_table_comes_first(home, server, row, monkeypatch, tmp_path):
    monkeypatch.setenv(cache.MIRROR_VARIABLE, f"{server.url}/mirror")
    home.mkdir(parents=True)
    (tmp_path / "own.pth").write_bytes(BODY)
    sha256 = hashlib.sha256(BODY).hexdigest()
    tag = "hrnet_w48_coco_256x192"
    (home / "urls.yaml").write_text(
        f"{tag}: {{url: '{(tmp_path / 'own.pth').as_uri()}', sha256: '{sha256[:12].upper()}'}}\n"
        f"here: {server.url}/here.pth\n"
    )
    assert fetch(tag, QUIET).read_bytes() == BODY == fetch("here", QUIET).read_bytes()
    assert server.asked == ["/here.pth"]
    (home / "pose_hrnet_w48_256x192.pth").write_bytes(b"another")
    with pytest.raises(CheckpointError, match=f"must begin with {sha256[:12].upper()}"):
        fetch(tag, QUIET)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "no mapping"),
        ("a: [", "no YAML"),
        ("\x00", "no YAML"),
        ("no_such_tag: http://x/y", "did you mean"),
        ("here: ftp://x/y", "is no URL"),
        ("here: 7", "is no URL"),
        ("here: {url: 'http://x/y', sha256: 12345678}", "in quotes"),
        ("here: {url: 'http://x/y', sha256: 'xyz12345'}", "in quotes"),
        ("here: {url: 'http://x/y', md5: 'a'}", "more than"),
    ],
)
def test_a_wrong_table_of_ones_own_is_named(home, row, text, said):
    home.mkdir(parents=True)
    (home / "urls.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        fetch("here", QUIET)


# Networks


NAME = "hrnet_w8_small"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A `.pth` of a tiny network with 16 joints, and its arrays."""
    from msposenet.models.initialise import initialise
    from msposenet.weights import get_arrays
    from msposenet.weights.official import official_name

    net = get_model(NAME, num_joints=16)
    initialise(net, seed=3)
    arrays = get_arrays(net)
    path = tmp_path_factory.mktemp("small") / "small.pth"
    write_pth(path, {official_name(name): array for name, array in arrays.items()})
    return path, arrays


def assert_filled(net, arrays: dict[str, np.ndarray], but: tuple[str, ...] = ()) -> None:
    from msposenet.weights import get_arrays

    for name, array in get_arrays(net).items():
        assert np.array_equal(array, arrays.get(name)) != (name in but), name


def test_a_network_is_filled_from_a_file(small, home):
    path, arrays = small
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        net = get_model(NAME, pretrained=path)
    assert net.num_joints == 16 and net.convention == "standard"
    assert_filled(net, arrays)
    assert not home.exists()


def test_another_number_of_joints_gets_a_new_head_and_a_warning(small, home):
    with pytest.warns(UserWarning, match=r"small.pth: re-initialised: final_layer.weight, final_layer.bias; loaded"):
        net = get_model(NAME, num_joints=5, pretrained=str(small[0]))
    assert net.num_joints == 5 and net.final_layer.weight.shape[0] == 5
    assert_filled(net, small[1], but=("final_layer.weight", "final_layer.bias"))


def test_a_network_is_filled_by_tag_and_kept(small, home, server, row, monkeypatch):
    path, arrays = small
    server.files["here.pth"] = path.read_bytes()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    change(row, monkeypatch, model=NAME, sha256=sha256)
    assert_filled(get_model(NAME, pretrained=True), arrays)
    assert_filled(get_model(NAME, pretrained="here"), arrays)  # from the file that was kept
    assert server.asked == ["/here.pth"]


def test_what_cannot_be_meant_is_named(small, home, tmp_path):
    with pytest.raises(ConfigError, match=r"several weights are published for hrnet_w32; choose one, .*_mmpose_udp"):
        get_model("hrnet_w32", pretrained=True)
    with pytest.raises(ConfigError, match="no weights are published for hrnet_w24"):
        get_model("hrnet_w24", pretrained=True)
    with pytest.raises(ConfigError, match="neither a file nor a tag"):
        get_model(NAME, pretrained="hrnet")
    with pytest.raises(PoseError, match=r"no such file|holds no weights"):
        get_model(NAME, pretrained=tmp_path / "absent.pth")
    with pytest.raises(PoseError, match=r"small.pth"):
        get_model("hrnet_w16_small", pretrained=small[0])


def test_the_table_needs_no_mxnet():
    code = "import sys, msposenet.weights.cache; sys.exit('mxnet' in sys.modules)"
    assert run_python(code).returncode == 0


def test_the_cache_in_a_folder_that_may_not_be_written(home, server, row, tmp_path):
    home.parent.mkdir(parents=True)
    (home.parent / "models").write_text("a file where the folder must be")
    with pytest.raises((StorageError, ConfigError), match="models"):
        fetch("here", QUIET)
