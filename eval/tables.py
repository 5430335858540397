"""The files of a dataset, checked line by line: questions, judgements, gold answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rag.errors import BadRow
from rag.sources.lines import Lines
from rag.sources.rows import json_rows
from rag.sources.values import either, show, what

ID_KEYS = ("_id", "id")
QUESTION_KEYS = ("text", "question")
ANSWER_KEYS = ("answers", "answer", "golden_answers")
QRELS_FORMS = (
    "write query-id, corpus-id, grade between tabs (BEIR) or query-id 0 corpus-id grade (TREC)"
)

_GRADE = re.compile(r"[+-]?[0-9]{1,9}")


class Judgements(NamedTuple):
    """Grades by question and document, and the line where each question first stands."""

    grades: dict[str, dict[str, int]]
    lines: dict[str, int]


class Asked(NamedTuple):
    """A question of ``qa.jsonl``; ``answers`` is empty where it has no gold answer."""

    question: str
    answers: tuple[str, ...]
    split: str | None


def read_queries(file: Path) -> dict[str, str]:
    """The text of each question by its id, from ``{"_id", "text"}`` a line."""
    queries: dict[str, str] = {}
    for line, row in _objects(file):
        name = _text(file, line, row, ID_KEYS)
        _once(file, line, name, queries)
        queries[name] = _text(file, line, row, QUESTION_KEYS)
    return queries


def read_answers(file: Path) -> dict[str, Asked]:
    """The questions with gold answers by id, from ``{"id", "question", "answers"}`` a line."""
    asked: dict[str, Asked] = {}
    for line, row in _objects(file):
        name = _text(file, line, row, ID_KEYS)
        _once(file, line, name, asked)
        question = _text(file, line, row, ("question", "text"))
        split = row.get("split")
        answers = _answers(file, line, row)
        asked[name] = Asked(question, answers, split if isinstance(split, str) else None)
    return asked


def read_qrels(file: Path) -> Judgements:
    """Grades by question and document: BEIR's three columns, or TREC's four.

    The first line is a header if its last cell is no number. A pair that stands twice with one
    grade does no harm; with two it is a ``BadRow``.
    """
    grades: dict[str, dict[str, int]] = {}
    lines: dict[str, int] = {}
    first = True
    for line, raw in Lines(file, str(file)):
        cells = _cells(file, line, raw)
        if not cells:
            continue
        header, first = first and not _GRADE.fullmatch(cells[-1]), False
        if header:
            continue
        query, document, grade = _judgement(file, line, cells)
        its = grades.setdefault(query, {})
        if its.setdefault(document, grade) != grade:
            found = f"{show(document)} is graded {its[document]} and {grade} for {show(query)}"
            raise BadRow(file, line, "grade", found, "keep one of the two lines")
        lines.setdefault(query, line)
    return Judgements(grades, lines)


def _cells(file: Path, line: int, raw: bytes) -> list[str]:
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise BadRow(file, line, "row", found, "save the file as UTF-8") from None
    if not text.strip():
        return []
    # BEIR's ids may hold spaces, so a line with tabs is cut at tabs alone.
    return [cell.strip() for cell in text.split("\t")] if "\t" in text else text.split()


def _judgement(file: Path, line: int, cells: list[str]) -> tuple[str, str, int]:
    if len(cells) == 4:
        query, _, document, grade = cells
    elif len(cells) == 3:
        query, document, grade = cells
    else:
        raise BadRow(file, line, "row", f"{len(cells)} columns, not 3 or 4", QRELS_FORMS)
    for field, value in (("query-id", query), ("corpus-id", document)):
        if not value:
            raise BadRow(file, line, field, "empty", QRELS_FORMS)
    if not _GRADE.fullmatch(grade):
        fix = "write the grade as an integer (0 is not relevant)"
        raise BadRow(file, line, "grade", f"{show(grade)} is no integer", fix)
    return query, document, int(grade)


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in json_rows(str(file), Lines(file, str(file))):
        if isinstance(row.values, BadRow):
            raise row.values
        yield row.line, row.values


def _text(file: Path, line: int, row: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The text under the first of ``keys`` that the row has; an id may be an integer."""
    for key in keys:
        if key not in row:
            continue
        value = row[key]
        if type(value) is int and keys is ID_KEYS:
            return str(value)
        if not isinstance(value, str):
            raise BadRow(file, line, key, what(value), "write it as a string")
        if not value.strip():
            raise BadRow(file, line, key, "empty", "fill it in, or leave out the line")
        return value
    found = f"no key {either(keys)}; the row has {show(', '.join(row) or 'none', 200)}"
    raise BadRow(file, line, keys[0], found, f"add the key {keys[0]!r}")


def _answers(file: Path, line: int, row: dict[str, Any]) -> tuple[str, ...]:
    for key in ANSWER_KEYS:
        if key in row:
            value = row[key]
            answers = [value] if isinstance(value, str) else value
            if isinstance(answers, list) and all(isinstance(text, str) for text in answers):
                return tuple(answers)
            fix = "write the gold answers as a list of strings ([] where there is none)"
            raise BadRow(file, line, key, f"{what(value)} that is no list of strings", fix)
    found = f"no key {either(ANSWER_KEYS)}; the row has {show(', '.join(row), 200)}"
    raise BadRow(file, line, "answers", found, "add the gold answers as a list of strings")


def _once(file: Path, line: int, name: str, known: dict[str, Any]) -> None:
    if name in known:
        raise BadRow(file, line, "id", f"{show(name)} stands twice", "give each question its own")
