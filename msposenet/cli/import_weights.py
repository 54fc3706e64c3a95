"""`msposenet import FILE`: weights of other programs as a `.params` file."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json

_PEOPLE = 2
_SEED = 17
_CROPS_HW = {"classification": (224, 224), "higherhrnet": (256, 256)}
_CROP_HW = (256, 192)


def import_weights(
    file: Path = typer.Argument(
        ..., metavar="FILE|TAG", help="A .pth, .safetensors or .params file, or a tag of docs/weights.md to fetch."
    ),
    model: Optional[str] = typer.Option(
        None, help="Network to fill; recognised from the file when left out. Name it to start another from ImageNet's."
    ),
    joints: Optional[int] = typer.Option(None, help="Number of joints, where the file leaves it open.", min=1),
    out: Optional[Path] = typer.Option(None, help="File to write; FILE's stem and .params, here, when left out."),
    force: bool = typer.Option(False, "--force", help="Replace the file to write where it exists."),
    check: bool = typer.Option(True, help="Run the filled network on two drawn people."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Turn published weights (HRNet, HigherHRNet, MSPN; mmpose, gluoncv, timm) into this program's .params.

    Nothing in the file is executed. Every array is filled, or said to be dropped; an unknown one is an error.
    """
    import numpy as np

    from msposenet.errors import CheckpointError, ConfigError
    from msposenet.runtime import without_known_warnings
    from msposenet.weights import get_arrays, importing
    from msposenet.weights.cache import find_file
    from msposenet.weights.params_file import read_params, write_params

    file = find_file(file)
    out = out or Path(f"{file.stem}.params")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file with --out")
    if out.exists() and (out.samefile(file) if file.exists() else False):
        raise ConfigError(f"{out}: is the file that is imported; name another with --out")
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists; name another file with --out, or replace it with --force")
    with without_known_warnings():
        imported = importing.import_weights(file, model, joints)
        checked = importing.check_forward(imported.net, _crops(imported.net.family), str(file)) if check else None
    arrays = get_arrays(imported.net)
    write_params(out, arrays)
    again = read_params(out)
    if list(again) != list(arrays) or any(not np.array_equal(again[name], arrays[name]) for name in arrays):
        raise CheckpointError(f"{out}: does not hold what was written to it: the disk is failing, write elsewhere")
    if as_json:
        print_json(_figures(imported, checked, file, out))
        return
    for line in imported.lines():
        typer.echo(line)
    if checked is not None:
        typer.echo(checked.line())
    typer.echo(f"wrote {out}: {len(arrays)} arrays, read back equal")
    for line in _next_commands(imported, out):
        typer.echo(line)


def _crops(family: str):
    """Crops (2, H, W, 3) uint8 of drawn people, always the same."""
    import numpy as np

    from msposenet import geometry
    from msposenet.data.synthetic import render_scene
    from msposenet.geometry import Convention

    height, width = _CROPS_HW.get(family, _CROP_HW)
    crops = []
    for index in range(_PEOPLE):
        scene = render_scene(_SEED, index)
        centers, sizes = geometry.boxes_to_crops(scene.boxes[:1], (width, height))
        crops.append(geometry.cut_crops(scene.image, centers, sizes, (width, height), Convention.STANDARD))
    return np.concatenate(crops)


def _figures(imported, checked, file: Path, out: Path) -> dict:
    found, filled = imported.recognised, imported.filled
    return {
        "file": str(file),
        "layout": found.layout,
        "recognised": found.model,
        "model": imported.model,
        "num_joints": imported.net.num_joints,
        "head": imported.head,
        "options": imported.options,
        "filled": len(filled.filled),
        "reinitialised": list(filled.reinitialised),
        "dropped": {dropped.title: len(dropped.names) for dropped in imported.dropped},
        "notes": list(imported.notes),
        "check": checked
        and {"output": checked.what, "people": checked.people, "low": checked.low, "high": checked.high},
        "out": str(out),
    }


def _next_commands(imported, out: Path) -> list[str]:
    """What can be done with the file now."""
    from msposenet.skeletons import COCO_17

    net = imported.net
    if net.family == "classification":
        return [f"next: msposenet train CONFIG --init-from {out} starts a pose network of its width from it"]
    if net.family != "hrnet":
        return [
            f'next: get_model("{imported.model}", {net.num_joints}) and msposenet.weights.files.load_weights in Python'
        ]
    if any(name.endswith("final_layer.weight") for name in imported.filled.reinitialised):
        return [f"next: msposenet train CONFIG --init-from {out}"]
    own_head = imported.head == _default_head(imported.model)
    if net.num_joints == COCO_17.num_joints and own_head and not imported.options:
        return [
            f"next: msposenet predict IMAGE --model {imported.model} --weights {out}",
            f"      msposenet eval CONFIG --weights {out}",
        ]
    settings = {"head": imported.head, **imported.options}
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    return [
        f"next: msposenet eval CONFIG --weights {out}",
        f"      where CONFIG has model {imported.model} ({told}) and a skeleton of {net.num_joints} joints",
    ]


def _default_head(model: str):
    from msposenet.models.zoo import model_info

    return model_info(model).head
