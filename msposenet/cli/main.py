"""`msposenet VERB ...`: gathers the verbs, turns expected failures into a sentence and an exit code."""

from __future__ import annotations

import sys

import typer

from msposenet.cli import (
    bench,
    check_data,
    demo,
    evaluate,
    export,
    import_weights,
    launch,
    pack,
    predict,
    summary,
    train,
)
from msposenet.errors import PoseError

app = typer.Typer(
    name="msposenet",
    help="Human-pose estimation on MXNet/Gluon: train, evaluate, predict and export Multi-Stage HRNet and its kin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("import")(import_weights.import_weights)
app.command("check-data")(check_data.check_data)
app.command("pack")(pack.pack)
app.command("summary")(summary.summary)
app.command("launch", context_settings={"allow_interspersed_args": False})(launch.launch)
app.add_typer(bench.bench, name="bench")


def _version(value: bool) -> None:
    if value:
        from msposenet import __version__

        typer.echo(f"msposenet {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Exit codes: 0 ok, 2 bad input or configuration, 3 diverged, 4 storage, 75 retry, 143 stopped by SIGTERM."""


def run() -> None:
    """Entry point: a PoseError ends in its message on stderr and its exit code, without a traceback."""
    try:
        app()
    except PoseError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
