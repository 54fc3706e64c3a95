"""`msposenet export RUN`: deployable graphs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json

# Height and width, px, that the published weights are made for.
_INPUTS = {"mspn": [256, 192], "higherhrnet": [512, 512], "classification": [224, 224]}


def export(
    model: str = typer.Argument(..., metavar="RUN|NAME|CONFIG", help="Run, model name (with --weights) or YAML file."),
    out: Path = typer.Option(
        Path("export"), help="Folder for deploy.json and the graphs; an earlier export in it goes."
    ),
    to: list[str] = typer.Option(
        ["symbol"],
        help="Format: symbol (MXNet symbol and params, CPU or GPU) or onnx (opset 13, any batch). Repeatable.",
    ),
    fused: bool = typer.Option(True, help="Beside the symbol, one with oneDNN's fused operators: MXNet on the CPU."),
    weights: Optional[Path] = typer.Option(
        None, help="File of weights, checkpoint, run or published tag; a run's own when left out."
    ),
    overrides: list[str] = typer.Option(
        [], "--set", help="Change a value, for example codec.decoder=peak. Repeatable."
    ),
    flip: bool = typer.Option(True, help="Build the mirrored pass into the graphs."),
    int8: Optional[Path] = typer.Option(
        None, help="YAML file or run: add 8-bit graphs, calibrated on its data.train, scored on its data.val."
    ),
    calibration: int = typer.Option(500, min=1, help="Crops that 8-bit graphs are calibrated on."),
    max_drop: float = typer.Option(0.5, help="Points that 8-bit graphs may lose; beyond, nothing is written."),
    keep_float: list[str] = typer.Option(
        [], help="Layer left in float in the 8-bit graphs, or what names begin with: stage4. Repeatable."
    ),
    network: bool = typer.Option(
        False, help="The bare network instead, of any family: normalised float32 (N, 3, H, W) in, all its outputs out."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Export a model: two graphs of uint8 crops, one to keypoints, one to heatmaps, and deploy.json to use them with.

    Batch norm is folded into the convolutions. Every file is loaded again and compared with the network on pictures of
    people, at batch 1 and 8; one that differs is refused, and an earlier export stays as it was.
    """
    from msposenet.errors import ConfigError
    from msposenet.export.crops import parity_crops
    from msposenet.export.folder import Exported, export_model
    from msposenet.export.int8 import Int8Request
    from msposenet.export.network import export_network
    from msposenet.export.staging import check_request
    from msposenet.inference.source import find_config, load_network, skeleton_of
    from msposenet.models.build import build_codec, shifts
    from msposenet.progress import Reporter
    from msposenet.runtime import mx

    check_request(out, to)
    if network and int8 is not None:
        raise ConfigError("--int8 scores keypoints, which --network does not give: leave one out")
    if network:
        name, net, config = _bare(model, weights, tuple(overrides))
        crops, origin = parity_crops(config, skeleton_of(config))
        exported = Exported(export_network(net, out, crops, model=name, forms=to, fused=fused))
    else:
        config = find_config(model, tuple(overrides))
        net = load_network(model, config, weights, mx.cpu())
        codec = build_codec(config)
        crops, origin = parity_crops(config, skeleton_of(config))
        request = None
        if int8 is not None:
            wanted = Int8Request(find_config(int8), Reporter(), calibration, max_drop, tuple(keep_float))
            request = wanted.of_model(config)
        exported = export_model(
            net,
            codec,
            skeleton_of(config),
            out,
            crops,
            model=config.model.name,
            enlarge=config.data.enlarge,
            flip=flip,
            shift=shifts(config),
            forms=to,
            fused=fused,
            int8=request,
        )
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    if as_json:
        parity = [
            {key: getattr(check, key) for key in ("form", "batch", "map_error", "pixel_error", "unclear")}
            for check in exported.parity
        ]
        figures = {"out": str(out), "crops": origin, "parity": parity, "bytes": sizes}
        if exported.int8 is not None:
            figures["int8"] = {**exported.int8.about.model_dump(by_alias=True), "speed": exported.int8.speed}
        print_json(figures)
        return
    typer.echo(f"compared on {origin}")
    for check in exported.parity:
        typer.echo(check.line())
    for line in exported.int8.lines() if exported.int8 is not None else ():
        typer.echo(line)
    listed = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in sizes.items())
    typer.echo(f"wrote {out}: {listed}")


def _bare(model: str, weights: Optional[Path], overrides: tuple[str, ...]):
    """Name and network of a zoo name of a family without configurations, or of what `find_config` finds; and what the
    pictures to compare it on are cut by."""
    from msposenet.config import build_config, override
    from msposenet.errors import CheckpointError, ConfigError
    from msposenet.inference.source import find_config, load_network
    from msposenet.models.zoo import get_model, model_info
    from msposenet.runtime import mx

    family = None
    if not Path(model).exists():
        try:
            family = model_info(model).family
        except ConfigError:
            family = None  # find_config says what else could have been meant
    if family in (None, "hrnet"):
        config = find_config(model, overrides)
        return config.model.name, load_network(model, config, weights, mx.cpu()), config
    if weights is None:
        raise ConfigError(f"{model} is not a run, so it holds no weights; name them with --weights FILE")
    config = build_config(override({"data": {"input": _INPUTS[family]}}, overrides), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a head that would be initialised afresh is no export
        try:
            return model, get_model(model, pretrained=weights), config
        except UserWarning as problem:
            raise CheckpointError(f"{problem}; name the model that the file is of") from None
