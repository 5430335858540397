"""What all commands share that are jobs: how many work, where, and what became of workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from rag.cli.output import plural

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="How many processes work. Default: one; with --ray as many as there is room for.",
        show_default=False,
    ),
]
OnRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Work on a Ray cluster: 'local' starts one, HOST:PORT names one.",
        show_default=False,
    ),
]


def tell_failures(failures: Sequence[str]) -> None:
    """Say on standard error how many workers ended before their time; the log has said which."""
    if failures:
        print(
            f"warning: {plural(len(failures), 'worker')} ended before their time, and what they "
            "had begun was done again",
            file=sys.stderr,
        )
