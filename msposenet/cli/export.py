"""`msposenet export RUN`: deployable graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json


def export(
    model: str = typer.Argument(..., metavar="RUN|NAME", help="Run directory, YAML file or model name."),
    out: Path = typer.Option(Path("export"), help="Folder for deploy.json, symbols and params."),
    to: str = typer.Option("symbol", help="Format: symbol (MXNet symbol/params)."),
    weights: Optional[Path] = typer.Option(None, help=".params file, checkpoint or run; a run's own when left out."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Change a value, for example codec.decoder=peak. Repeatable."
    ),
    flip: bool = typer.Option(True, help="Build the mirrored pass into the graphs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Export both graphs of a model: uint8 crops in, keypoints or heatmaps out; refuses when they differ from it."""
    from msposenet.errors import ConfigError
    from msposenet.export.crops import parity_crops
    from msposenet.export.symbol import export_symbol
    from msposenet.inference.source import find_config, load_network, skeleton_of
    from msposenet.models.build import build_codec, shifts
    from msposenet.runtime import mx

    if to != "symbol":
        raise ConfigError(f"unknown format {to!r}; known: symbol")
    config = find_config(model, tuple(overrides))
    net = load_network(model, config, weights, mx.cpu())
    codec = build_codec(config)
    crops, origin = parity_crops(config, skeleton_of(config))
    checks = export_symbol(
        net,
        codec,
        skeleton_of(config),
        out,
        crops,
        model=config.model.name,
        enlarge=config.data.enlarge,
        flip=flip,
        shift=shifts(config),
    )
    if as_json:
        parity = [
            {"batch": check.batch, "map_error": check.map_error, "pixel_error": check.pixel_error} for check in checks
        ]
        print_json({"out": str(out), "crops": origin, "parity": parity})
        return
    typer.echo(f"compared on {origin}")
    for check in checks:
        typer.echo(check.line())
    typer.echo(f"wrote {out}: deploy.json, keypoints-symbol.json, heatmaps-symbol.json and their .params")
