"""The commands for YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.cli.output import JsonFlag, plural, print_json


def validate(
    file: Annotated[Path, typer.Argument(help="A pipeline or index YAML.", show_default=False)],
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
        typer.Argument(help="pipeline or index; default: both.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON schema of YAML files, for editors.

    \b
    Example:
      rag schema pipeline > pipeline.schema.json
    """  # noqa: D301
    from rag.errors import InvalidInput
    from rag.pipelines.schema import json_schema

    if kind not in (None, "pipeline", "index"):
        raise InvalidInput(f"schema: found {kind!r}, expected pipeline or index")
    print_json(json_schema(kind))  # type: ignore[arg-type]
