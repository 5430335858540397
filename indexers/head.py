"""``index.json`` of an index, and its like: small facts about a folder, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.errors import REFUSED, Damaged, InvalidInput, NotFound

AGAIN = "run `rag verify`, then `rag index` again"
"""What to do about a damaged file."""


def write_head(file: Path, head: Mapping[str, Any]) -> None:
    """Write the facts, sorted, in ASCII."""
    text = json.dumps(head, sort_keys=True, indent=1, ensure_ascii=True)
    file.write_text(text + "\n", encoding="ascii")


def read_head(file: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in a file, after checking that those in ``wanted`` are as they should be.

    Raises:
        NotFound: there is no such file.
        Damaged: it is not what ``write_head`` writes.
        InvalidInput: it says something else; another version or other settings wrote it.
    """
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{file} is missing: {AGAIN}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise
        raise Damaged(f"{file} is damaged: {error}; {AGAIN}") from error
    if not isinstance(head, dict):
        raise Damaged(f"{file} is damaged: it holds no object; {AGAIN}")
    for key, value in wanted.items():
        if head.get(key) != value:
            raise InvalidInput(
                f"{file}: {key} is {head.get(key)!r}, expected {value!r}; run `rag index` again"
            )
    return head


def check_counts(
    file: Path, head: Mapping[str, Any], found: Mapping[str, int], arrays: str
) -> None:
    """Raise Damaged unless ``arrays`` hold as many of each as the head in a file counts."""
    for key, value in found.items():
        if head.get(key) != value:
            raise Damaged(
                f"{file.parent} is damaged: {file.name} counts {head.get(key)} {key}, {arrays} "
                f"hold {value}; {AGAIN}"
            )
