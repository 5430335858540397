"""All commands of ``rag``, by what they are for."""

from __future__ import annotations

from typing import Annotated

import typer

from rag.cli import ask, collections, evaluate, files, run
from rag.cli import mine as mining
from rag.cli import train as training

app = typer.Typer(
    name="rag",
    help="Retrieval and question answering whose pipelines are written in YAML.",
    epilog="Begin with:  rag index SOURCE --out DIR,  then:  rag ask QUESTION -c DIR",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from rag import __version__

        print(f"ragstone {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (
    collections.index,
    collections.add,
    collections.delete,
    collections.compact,
    collections.clean,
    ask.search,
    ask.ask,
    evaluate.evaluate,
    run.run,
    mining.mine,
    training.train,
    collections.info,
    collections.verify,
    files.validate,
    files.draw,
    files.schema,
):
    app.command({"evaluate": "eval"}.get(command.__name__, command.__name__))(command)
