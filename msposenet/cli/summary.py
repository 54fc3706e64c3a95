"""`msposenet summary NAME`: parameters and multiply-adds."""

from __future__ import annotations

from typing import Optional

import typer
import yaml

from msposenet.cli.common import parse_size, print_json
from msposenet.errors import ConfigError


def summary(
    name: Optional[str] = typer.Argument(None, help="A model's name; without it the known names are listed."),
    input_size: str = typer.Option("256x192", "--input", help="Height x width of the crop in px."),
    joints: int = typer.Option(17, help="Number of joints; classification has num_classes, an --option.", min=1),
    head: Optional[str] = typer.Option(
        None, help="hrnet_* and mshrnet_*: heatmap or offset; the model's own when left out."
    ),
    option: list[str] = typer.Option([], help="Construction option, for example entry=hires. May be repeated."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Parameters and multiply-adds of a model (convolutions, transposed convolutions and dense layers)."""
    from msposenet.models.zoo import get_model, list_models

    if name is None:
        typer.echo("\n".join(list_models()))
        return
    size = parse_size(input_size)
    net = get_model(name, joints, head, **dict(_option(text) for text in option))
    from msposenet.models.summary import GIBI, summarise

    figures = summarise(net, name, size)
    if as_json:
        print_json(figures.as_dict())
        return
    made_for = f"{joints} joints, {net.head} head" if net.head else f"{net.spec.num_classes} classes"
    convention = f", {net.convention} pixel convention" if net.convention else ""
    typer.echo(f"{name} at {input_size}, {made_for}{convention}")
    typer.echo(f"parameters      {figures.params:,} ({figures.params / 1e6:.2f} M)")
    typer.echo(f"multiply-adds   {figures.multiply_adds / 1e9:.2f} x 10^9 = {figures.multiply_adds / GIBI:.2f} x 2^30")


def _option(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option {text}: write name=value, for example entry=hires")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--option {text}: the value is not YAML") from None
