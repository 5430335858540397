"""What the commands print: JSON for machines, tables for people, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rag.jobs import Progress

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

LINE_EVERY = 60.0
"""Seconds between two lines of progress where there is no terminal."""

_LABELS = {
    "read": "reading and indexing",
    "index": "indexing",
    "merge": "building segments",
    "verify": "checking",
    "score": "scoring what is held back",
    "train": "training",
    "save": "saving",
}


def print_json(value: Any) -> None:
    """Print a value as JSON, in UTF-8 as it stands."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def console() -> Console:
    """The console for people, on standard output."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on a terminal; elsewhere one line a minute."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(_LABELS.get(what, what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY

    def tell(self, what: str, done: int, total: int | None) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            share = f" {100 * done // total}%" if total else ""
            print(f"{_LABELS.get(what, what)}{share}", file=sys.stderr, flush=True)


def plural(count: int, noun: str) -> str:
    """``1 passage``, ``1,190 passages``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
