"""The two files of ``rag run``: questions from the one, a line of the other from each row."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rag.collection.folders import key_of
from rag.errors import BadRow, InvalidInput, NotFound
from rag.sources.duplicates import Seen
from rag.sources.lines import Lines
from rag.sources.rows import json_rows
from rag.sources.values import either, show, what

if TYPE_CHECKING:
    from rag.batch import Batch

Form = Literal["answers", "kilt", "mined"]
"""What a line of a result is (``lines_of``, ``kilt_lines_of``, ``mined_lines_of``)."""

PART_ROWS = 64
"""Questions in a part: the most work that a kill can cost."""

ID_KEYS = ("id", "_id")
QUESTION_KEYS = ("question", "text", "input")


class Part(NamedTuple):
    """Up to ``PART_ROWS`` questions and their ids, in the order of the file."""

    ids: tuple[str, ...]
    questions: tuple[str, ...]


def parts(file: Path | Mapping[str, str], *, check: bool = True) -> Iterator[Part]:
    """The questions of a jsonl file, ``PART_ROWS`` at a time; or those given by their id.

    A line is ``{"question": ...}`` with an ``id`` if it likes, BEIR's ``{"_id", "text"}``, or
    KILT's ``{"id", "input"}``; other keys are passed over. A row without an id has its number in
    the file, from "0". The file may be compressed.

    Args:
        file: the file.
        check: look for ids that stand twice, which costs 24 bytes a row.

    Raises:
        BadRow: a line cannot be used; the message names file, line, field and the fix.
        NotFound: there is no such file.
    """
    if isinstance(file, Mapping):
        names, questions = tuple(file), tuple(file.values())
        for first in range(0, len(names), PART_ROWS):
            part = slice(first, first + PART_ROWS)
            yield Part(names[part], questions[part])
        return
    if file.is_dir():
        raise InvalidInput(f"{file}: is a folder; name a .jsonl file of questions in it")
    if not file.is_file():
        raise NotFound(f"{file}: no such file; expected one JSON object with a question a line")
    seen = Seen() if check else None
    rows: list[tuple[int, str, str]] = []
    for number, (line, values) in enumerate(_objects(file)):
        name, question = _id(file, line, values, number), _question(file, line, values)
        rows.append((line, name, question))
        if len(rows) == PART_ROWS:
            yield _part(file, rows, seen)
            rows = []
    if rows:
        yield _part(file, rows, seen)


def row_key(part: Part) -> str:
    """The hash of a part's rows."""
    return key_of(part.ids, part.questions)


def _part(file: Path, rows: list[tuple[int, str, str]], seen: Seen | None) -> Part:
    lines, ids, questions = zip(*rows, strict=True)
    for line, name, first in zip(lines, ids, seen.add(ids, lines) if seen else (), strict=False):
        if first:
            found = f"{show(name)} is the id of line {first} too"
            fix = "give each question an id of its own (a row without one has its number)"
            raise BadRow(file, line, "id", found, fix)
    return Part(ids, questions)


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in json_rows(str(file), Lines(file, str(file))):
        if isinstance(row.values, BadRow):
            raise row.values
        yield row.line, row.values


def _id(file: Path, line: int, values: Mapping[str, Any], number: int) -> str:
    key = next((key for key in ID_KEYS if values.get(key) is not None), None)
    if key is None:
        return str(number)
    value = values[key]
    return str(value) if type(value) is int else _text(file, line, key, value)


def _question(file: Path, line: int, values: Mapping[str, Any]) -> str:
    key = next((key for key in QUESTION_KEYS if key in values), None)
    if key is None:
        have = show(", ".join(values) or "none", 200)
        found = f"no key {either(QUESTION_KEYS)}; the row has {have}"
        raise BadRow(file, line, "question", found, "add the key 'question'")
    return _text(file, line, key, values[key])


def _text(file: Path, line: int, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow(file, line, key, what(value), "write it as a string")
    if not value.strip():
        raise BadRow(file, line, key, "empty", "fill it in, or leave out the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"an unpaired surrogate at character {error.start + 1}"
        raise BadRow(file, line, key, found, "write the character whole, in UTF-8") from None
    return value


def lines_of(batch: Batch, *, documents: int, texts: bool) -> Iterator[bytes]:
    r"""One JSON object a row, each with its ``\n``; ``error`` stands last.

    Keys: ``id``, ``question``, ``answer``, ``citations``, ``confidence``, ``route``,
    ``documents`` (the first ``documents`` of the ranking: ``id``, ``title``, ``score``, and
    ``text`` where ``texts`` is true) and ``error``. What no stage wrote is null or empty.
    """
    found = _documents(batch, documents, texts)
    for row in range(len(batch)):
        values = {
            "id": batch.ids[row],
            "question": batch["question"][row],
            "answer": _of(batch, "answer", row),
            "citations": _of(batch, "citations", row) or (),
            "confidence": _of(batch, "confidence", row),
            "route": _of(batch, "route", row),
            "documents": found[row],
            "error": _of(batch, "error", row),
        }
        # An unpaired surrogate, which a model may write, becomes its JSON escape.
        text = json.dumps(_plain(values), ensure_ascii=False, allow_nan=False)
        yield text.encode("utf-8", "backslashreplace") + b"\n"


def kilt_lines_of(batch: Batch, *, documents: int) -> Iterator[bytes]:
    r"""One prediction of KILT a row, each with its ``\n``; ``error`` stands last.

    Keys: ``id``, ``input``, ``output`` (one object: ``answer``, empty where there is none, and
    ``provenance``) and ``error``, which KILT's own tools pass over. The provenance is the first
    ``documents`` pages of the ranking, each once, where its best passage stands: ``wikipedia_id``
    (the passage's document) and ``title``.
    """
    pages = _pages(batch, documents)
    for row in range(len(batch)):
        answer = _of(batch, "answer", row)
        values = {
            "id": batch.ids[row],
            "input": batch["question"][row],
            "output": [{"answer": answer or "", "provenance": pages[row]}],
            "error": _of(batch, "error", row),
        }
        text = json.dumps(_plain(values), ensure_ascii=False, allow_nan=False)
        yield text.encode("utf-8", "backslashreplace") + b"\n"


def mined_lines_of(batch: Batch) -> Iterator[bytes]:
    r"""One training example a row, each with its ``\n``; ``error`` stands last.

    Keys: ``id``, ``question``, ``positives`` and ``negatives`` (ids of passages, as the stage
    ``rag.training.mine.Negatives`` told them apart, in the order of the ranking), where a stage
    after it scored them ``positive_scores`` and ``negative_scores``, and ``error``.
    """
    found = _documents(batch, sys.maxsize, texts=False)
    for row in range(len(batch)):
        hits = found[row]
        good = batch["documents"].evidence["positive"] if hits else ()
        start = int(batch["documents"].offsets[row]) if hits else 0
        sides = {
            name: [hit for at, hit in enumerate(hits, start) if good[at] == wanted]
            for name, wanted in (("positive", True), ("negative", False))
        }
        values = {"id": batch.ids[row], "question": batch["question"][row]}
        values |= {f"{name}s": [hit["id"] for hit in side] for name, side in sides.items()}
        if not any(math.isnan(hit["score"]) for hit in hits):
            values |= {f"{name}_scores": [h["score"] for h in side] for name, side in sides.items()}
        text = json.dumps(_plain({**values, "error": _of(batch, "error", row)}), ensure_ascii=False)
        yield text.encode("utf-8", "backslashreplace") + b"\n"


def failed(line: bytes) -> bool:
    """Whether a line of either form holds an error (an object then ends it)."""
    return not line.endswith(b', "error": null}\n')


def _of(batch: Batch, column: str, row: int) -> Any:
    return batch[column][row] if column in batch else None


def _documents(batch: Batch, count: int, texts: bool) -> list[list[dict[str, Any]]]:
    """The first ``count`` passages of each row; all are read from the snapshot at once."""
    if not count or batch.columns.get("documents") != "ranking" or not len(batch):
        return [[] for _ in range(len(batch))]
    ranking = batch["documents"].top(count)
    if texts:
        return [[_hit(hit) for hit in ranking[row]] for row in range(len(batch))]
    table = ranking.snapshot.rows(ranking.docs, ("id", "title"))
    columns = table["id"].to_pylist(), table["title"].to_pylist(), ranking.scores.tolist()
    flat = [dict(zip(("id", "title", "score"), v, strict=True)) for v in zip(*columns, strict=True)]
    offsets = ranking.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(offsets)]


def _pages(batch: Batch, count: int) -> list[list[dict[str, str]]]:
    """The documents of each row's passages, the first ``count`` of them, each once."""
    if not count or batch.columns.get("documents") != "ranking" or not len(batch):
        return [[] for _ in range(len(batch))]
    ranking = batch["documents"]
    table = ranking.snapshot.rows(ranking.docs, ("document", "title"))
    columns = table["document"].to_pylist(), table["title"].to_pylist()
    flat = list(zip(*columns, strict=True))
    made = []
    for a, b in pairwise(ranking.offsets.tolist()):
        titles: dict[str, str] = {}
        for document, title in flat[a:b]:
            titles.setdefault(document, title or "")
        first = list(titles.items())[:count]
        made.append([{"wikipedia_id": name, "title": title} for name, title in first])
    return made


def _hit(hit: Any) -> dict[str, Any]:
    """A hit as an object, the text last."""
    return {"id": hit.id, "title": hit.title, "score": hit.score, "text": hit.text}


def _plain(value: Any) -> Any:
    """As JSON has it: citations as objects, numbers that are none (NaN, infinity) as null."""
    from rag.batch import as_json

    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str) or value is None else as_json(value)
