"""Importing MXNet: NumPy's aliases, the CUDA libraries of mxnet-cu112, and who must not import it at all."""

from __future__ import annotations

import ast
import builtins
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from msposenet import runtime

PACKAGE = Path(runtime.__file__).parent

# The libraries of the NVIDIA wheels, each with one that it finds only when that was loaded before, for all to see.
CUDA_LIBRARIES = {
    "cuda_runtime/lib/libcudart.so.11.0": None,
    "cuda_nvrtc/lib/libnvrtc.so.11.2": None,
    "nvtx/lib/libnvToolsExt.so.1": None,
    "nccl/lib/libnccl.so.2": "cuda_runtime/lib/libcudart.so.11.0",
    "cufft/lib/libcufft.so.10": "cuda_runtime/lib/libcudart.so.11.0",
    "curand/lib/libcurand.so.10": "cuda_runtime/lib/libcudart.so.11.0",
    "cublas/lib/libcublasLt.so.11": "cuda_runtime/lib/libcudart.so.11.0",
    "cublas/lib/libcublas.so.11": "cublas/lib/libcublasLt.so.11",
    "cudnn/lib/libcudnn.so.8": "cublas/lib/libcublas.so.11",
    "cusolver/lib/libcusolver.so.11": "cublas/lib/libcublas.so.11",
}
PRELOAD = """
import ctypes, sys
from pathlib import Path
from msposenet.runtime import preload_cuda
print(*preload_cuda(Path(sys.argv[1])), sep="\\n")
print(ctypes.CDLL(sys.argv[2]).uses_all())
"""


@pytest.mark.parametrize("name", ["bool", "int", "float", "object", "str", "complex"])
def test_removed_numpy_aliases_come_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(np.__dict__, name, raising=False)
    runtime.restore_numpy_aliases()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy before 1.24 warns where it still makes the alias itself
        assert getattr(np, name) is getattr(builtins, name)


def test_an_alias_that_numpy_has_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(np.__dict__, "bool", np.bool_)  # NumPy 2 gives the name a new meaning
    runtime.restore_numpy_aliases()
    assert np.bool is np.bool_


def test_mxnet_computes() -> None:
    total = (runtime.mx.nd.arange(4) * 2).sum().asscalar()
    assert runtime.mx.__version__ == "1.9.1"
    assert total == 12


def test_without_the_nvidia_wheels_nothing_is_loaded(tmp_path: Path) -> None:
    assert runtime.preload_cuda(tmp_path) == []


def test_cuda_libraries_load_in_order_and_are_seen_by_mxnet(tmp_path: Path) -> None:
    """Each stand-in calls the library it needs without naming it, as the last one, in MXNet's place, calls them all."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build shared libraries with")
    functions = {library: f"stand_in_{number}" for number, library in enumerate(CUDA_LIBRARIES)}
    declarations = "".join(f"int {function}(void); " for function in functions.values())
    for library, needed in CUDA_LIBRARIES.items():
        value = "1" if needed is None else f"{functions[needed]}()"
        build(
            compiler,
            f"{declarations} int {functions[library]}(void) {{ return {value}; }}",
            tmp_path / "nvidia" / library,
        )
    total = " + ".join(f"{function}()" for function in functions.values())
    build(compiler, f"{declarations} int uses_all(void) {{ return {total}; }}", tmp_path / "user.so")

    done = python("-c", PRELOAD, str(tmp_path), str(tmp_path / "user.so"))
    assert done.returncode == 0, done.stderr
    *loaded, sum_of_all = done.stdout.split()
    assert sorted(loaded) == sorted(str(tmp_path / "nvidia" / library) for library in CUDA_LIBRARIES)
    assert sum_of_all == str(len(CUDA_LIBRARIES))


def test_help_does_not_import_mxnet() -> None:
    done = python("-X", "importtime", "-m", "msposenet", "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "msposenet" in imported
    assert not imported & {"mxnet", "gluoncv", "mxboard"}


def test_mxnet_is_imported_through_runtime_alone() -> None:
    """Loaded before runtime.py, MXNet fails on Python 3.12, and mxnet-cu112 where CUDA's libraries are in no path."""
    offenders = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "runtime.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if "mxnet" in {name.partition(".")[0] for name in imported_modules(node)}
    ]
    assert offenders == []


def imported_modules(node: ast.AST) -> list[str]:
    """Modules that an import statement names; none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def build(compiler: str, source: str, target: Path) -> None:
    """Compiles C source into a shared library at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(target)]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter in the project folder."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent, timeout=120)
