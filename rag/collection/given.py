"""What a collection is given to index: a path, a ``Source``, or rows from Python."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag.collection.build import aside
from rag.errors import BadRow
from rag.sources import Source, detect

Rows = Iterable[Mapping[str, Any]]
"""Documents given from Python: mappings with ``id``, ``text`` and perhaps ``title`` and fields."""

ROWS = "rows"
"""What messages call documents given from Python, in place of a file."""


@contextmanager
def as_source(
    collection: Path, given: str | Path | Source | Rows, mapping: Mapping[str, str]
) -> Iterator[Source]:
    """What is ``given`` as a ``Source``; rows become a file of the work folder meanwhile.

    ``mapping`` names the keys of a source that is given by its path alone.

    Raises:
        BadRow: a row from Python is no mapping, or holds what JSON cannot; rows count from 1.
    """
    if isinstance(given, Source):
        yield given
    elif isinstance(given, str | Path):
        yield detect(given).model_copy(update={"fields": dict(mapping)})
    else:
        with aside(collection) as folder:
            file = folder / "rows.jsonl"
            with file.open("w", encoding="utf-8") as stream:
                stream.writelines(_line(number, row) for number, row in enumerate(given, 1))
            try:
                yield Source(type="jsonl", path=str(file))
            except BadRow as bad:
                # The file goes, and nobody wrote it but us: its lines are the rows.
                raise BadRow(ROWS, bad.line, bad.field, bad.found, bad.fix) from None


def _line(number: int, row: Mapping[str, Any]) -> str:
    if not isinstance(row, Mapping):
        fix = "give a list of mappings with 'id' and 'text'"
        raise BadRow(ROWS, number, "row", f"found {type(row).__name__}", fix)
    try:
        return json.dumps(dict(row), ensure_ascii=True) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        fix = "give strings, numbers, booleans, None, and lists and mappings of them"
        raise BadRow(ROWS, number, "row", str(error), fix) from None
