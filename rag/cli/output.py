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
    "build": "building indexes",
    "save": "saving",
}


def print_json(value: Any) -> None:
    """Print a value as JSON, in UTF-8 as it stands."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def console() -> Console:
    """The console for people, on standard output."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


_SHARES = {
    "read": (0.0, 0.6),
    "index": (0.6, 0.7),
    "merge": (0.7, 0.9),
    "train": (0.9, 0.93),
    "build": (0.93, 1.0),
}
"""From where to where a step of an index job brings the bar; a step of other jobs is the whole."""

ASIDE = ("rows", "workers", "failures")
"""What is told beside the steps of a job (``rag.jobs.Progress``)."""


@contextmanager
def progress() -> Iterator[Progress]:
    """One bar for the whole job on a terminal; elsewhere one line a minute.

    The bar shows the step at hand, how far the job is and how long it takes yet, and beside it rows
    a second, workers, and how many workers ended before their time.
    """
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
        TextColumn("{task.fields[aside]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=1.0, visible=False, aside="")
        beside = Beside()
        whole = Whole()

        def tell(what: str, done: int, total: int | None) -> None:
            beside.note(what, done, total)
            if what not in ASIDE:
                so_far = whole.share(what, done, total)
                label = _LABELS.get(what, what)
                bars.update(bar, completed=so_far, description=label, visible=True)
            bars.update(bar, aside=str(beside))

        yield tell


class Whole:
    """How far a job is, of which each step is a share."""

    def __init__(self) -> None:
        """It has not begun."""
        self._first: str | None = None
        self._far = 0.0

    def share(self, what: str, done: int, total: int | None) -> float:
        """From 0 to 1, never falling, for ``done`` of ``total`` in a step."""
        if self._first is None or what not in _SHARES:
            self._first, self._far = what, 0.0
        begin, _ = _SHARES.get(self._first, (0.0, 1.0))
        start, stop = _SHARES.get(what, (0.0, 1.0))
        inside = min(done / total, 1.0) if total else 0.0
        here = (start + (stop - start) * inside - begin) / (1.0 - begin)
        self._far = max(self._far, here) if what in _SHARES else here
        return self._far


class Beside:
    """What is told beside the steps of a job, in words."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._began = time.monotonic()
        self._counts: dict[str, tuple[int, int | None]] = {}
        self._rate = 0.0

    def note(self, what: str, done: int, total: int | None) -> None:
        """Keep a count. Questions are rows."""
        what = "rows" if what == "questions" else what
        if what in ASIDE:
            before, _ = self._counts.get(what, (0, None))
            if what == "rows" and done > before:
                self._rate = done / max(time.monotonic() - self._began, 0.1)
            self._counts[what] = done, total

    def __str__(self) -> str:
        """``1,234 rows/s · 4 of 8 workers · 1 failure``, without what is not known."""
        parts = []
        if self._rate:
            parts.append(f"{self._rate:,.0f} rows/s")
        if "workers" in self._counts:
            count, most = self._counts["workers"]
            parts.append(plural(count, "worker") if count == most else f"{count} of {most} workers")
        if "failures" in self._counts:
            parts.append(plural(self._counts["failures"][0], "failure"))
        return " · ".join(parts)


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY
        self._beside = Beside()

    def tell(self, what: str, done: int, total: int | None) -> None:
        self._beside.note(what, done, total)
        if what not in ASIDE and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            share = f" {100 * done // total}%" if total else ""
            aside = f" ({self._beside})" if str(self._beside) else ""
            print(f"{_LABELS.get(what, what)}{share}{aside}", file=sys.stderr, flush=True)


def plural(count: int, noun: str) -> str:
    """``1 passage``, ``1,190 passages``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
