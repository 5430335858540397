"""The commands for YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.cli.output import JsonFlag, plural, print_json


def validate(
    file: Annotated[
        Path, typer.Argument(help="A pipeline, index or recipe YAML.", show_default=False)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Check a YAML file; exit 2 with every error as FILE:LINE:COLUMN. Loads no model.

    \b
    Example:
      rag validate mine.yaml
    """  # noqa: D301
    from rag.pipelines.load import problems

    found = problems(file)
    if as_json:
        print_json([vars(problem) for problem in found])
    else:
        for problem in found:
            print(problem)
        print(f"{file}: {plural(len(found), 'error') if found else 'good'}")
    if found:
        raise typer.Exit(2)


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(help="pipeline, index or recipe; default: all.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON schema of YAML files, for editors.

    \b
    Example:
      rag schema pipeline > pipeline.schema.json
    """  # noqa: D301
    from rag.errors import InvalidInput
    from rag.pipelines.schema import json_schema

    if kind not in (None, "pipeline", "index", "recipe"):
        raise InvalidInput(f"schema: found {kind!r}, expected pipeline, index or recipe")
    print_json(json_schema(kind))  # type: ignore[arg-type]


def draw(
    pipeline: Annotated[
        str,
        typer.Argument(help="A shipped pipeline by name, or a YAML file.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write it to this file.", show_default=False),
    ] = None,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Text for Mermaid, which wikis draw; default: SVG.")
    ] = False,
) -> None:
    """Draw a pipeline: its stages, their settings, the columns between them. Loads no model.

    \b
    Examples:
      rag draw bm25-qa --out bm25-qa.svg
      rag draw mine.yaml --mermaid
    """  # noqa: D301
    from rag.errors import NotFound
    from rag.pipeline import Pipeline
    from rag.pipelines import draw as drawing

    loaded = Pipeline.load(pipeline)
    text = drawing.mermaid(loaded) if mermaid else drawing.svg(loaded)
    if out is None:
        print(text, end="")
        return
    if not out.parent.is_dir():
        raise NotFound(f"{out}: there is no folder {out.parent}; make it first")
    out.write_text(text, encoding="utf-8")
