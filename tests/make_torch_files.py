"""Writes tests/torch_files/ anew; needs PyTorch, which neither the package nor its tests need.

    python tests/make_torch_files.py

Tensors as PyTorch itself writes them, and in expected.npz their numbers as NumPy does. The files there now were written
by PyTorch 2.15.0 and NumPy 1.23.5.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent / "torch_files"


def main() -> None:
    import torch

    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4))
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(drawn(*tensor.shape)) if tensor.is_floating_point() else tensor.fill_(7)
    plain = net.state_dict()  # an OrderedDict with a `_metadata` attribute
    parallel = torch.nn.DataParallel(net).state_dict()
    grid = drawn(4, 6)
    odd = OrderedDict(
        transposed=grid.t(), every_second=grid[:, ::2], corner=grid[1:3, 2:5], whole=grid, empty=drawn(0, 3),
        scalar=torch.tensor(2.5), expanded=drawn(1, 3).expand(2, 3),
    )  # fmt: skip
    kinds = OrderedDict(
        float64=drawn(3).double(), int64=torch.arange(3), int32=torch.arange(3, dtype=torch.int32),
        int16=torch.arange(3, dtype=torch.int16), int8=torch.arange(3, dtype=torch.int8),
        uint8=torch.arange(3, dtype=torch.uint8), bool=torch.tensor([True, False, True]),
    )  # fmt: skip
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in plain.items() if tensor.is_floating_point()}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(drawn(2, 3, 4, 4)).sum().backward()
    before = {name: tensor.clone() for name, tensor in plain.items()}
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [170, 200])
    checkpoint = {
        "epoch": 210,
        "model": "pose_hrnet",
        "state_dict": torch.nn.DataParallel(net).state_dict(),
        "ema": {name: tensor * 0 for name, tensor in plain.items()},
        "earlier": before,
        "perf": np.float64(0.744),
        "perf_per_joint": np.linspace(0, 1, 17),
        "seen": np.int64(149813),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "milestones": Counter([170, 200, 200]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "input": torch.Size([256, 192]),
    }
    files = {
        "plain": plain, "parallel": parallel, "odd": odd, "kinds": kinds, "parameters": parameters,
        "checkpoint": checkpoint, "half": {name: tensor.half() for name, tensor in plain.items()},
        "bfloat16": {name: tensor.bfloat16() for name, tensor in plain.items()},
        "nested": {"model": {"net": plain}, "step": 3},
    }  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    for name, content in files.items():
        torch.save(content, FOLDER / f"{name}.pth")
    for name in ("plain", "odd", "kinds", "checkpoint"):
        torch.save(files[name], FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    torch.save(plain, FOLDER / "no_checksums.pth")
    torch.serialization.set_crc32_options(True)
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(2)), str(FOLDER / "torchscript.pt"))
    torch.save(net, FOLDER / "whole_network.pth")
    expected = {"net": plain, "odd": odd, "kinds": kinds}
    arrays = {
        f"{group}/{name}": tensor.detach().contiguous().numpy()
        for group, tensors in expected.items()
        for name, tensor in tensors.items()
    }
    np.savez_compressed(FOLDER / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
