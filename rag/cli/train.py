"""The command that trains a model by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.cli.output import JsonFlag, print_json, progress


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A shipped recipe by name, or a YAML file.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder of the result.", show_default=False),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Train on this folder, not the recipe's.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a model by a recipe; a training that was killed goes on from its last checkpoint.

    \b
    Examples:
      rag train seal-xquad-cpu --out my-seal
      rag train mine.yaml --out my-encoder --json
    """  # noqa: D301
    from rag.training import load_recipe
    from rag.training.recipe import with_data
    from rag.training.run import train as run

    loaded = load_recipe(recipe)
    if data is not None:
        loaded = with_data(loaded, data)
    with progress() as tell:
        done = run(loaded, out, progress=tell)
    if as_json:
        kept = {key: value for key, value in done.report.items() if key not in ("values", "loss")}
        print_json({"out": str(done.out), "unchanged": done.unchanged, **kept})
        return
    if done.unchanged:
        print(f"{done.out}: nothing to do: it was made from the same before")
    for row in done.report["scores"]:
        print(
            f"  {row['measure']:<30} {row['row']:<30} {row['mean']:.4f} "
            f"({row['low']:.4f} to {row['high']:.4f}), n = {row['n']:,}"
        )
    print(f"{done.out}: the model; {done.page} says how it came about")
