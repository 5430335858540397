"""TREC runs: ``qid Q0 docid rank score tag`` a line, one space between, ranks from 1.

trec_eval, and all that follow it, order a question's documents by falling score and break ties by
falling document id; the rank in the file is ignored, and scores are kept as float32. So a run has
to carry its order in its scores: here they fall strictly, by at least one float32 step.
"""

from __future__ import annotations

import gzip
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import BadRow, InvalidInput, NotFound
from rag.sources.lines import Lines

Run = Mapping[str, Sequence[tuple[str, float]]]
"""Question id to (document id, score), best first."""

_MAGNITUDE = np.int64(0x7FFFFFFF)
_FORM = "a line is: qid Q0 docid rank score tag"


def falling(scores: ArrayLike) -> NDArray[np.float32]:
    """The scores in their order, each lowered as little as makes them fall strictly.

    Over keys that count the float32 numbers in order, ``key'[i] = min(key[i], key'[i - 1] - 1)``.
    Scores that fall already stay as they are, so doing it twice changes nothing.

    Args:
        scores: (n,), best first.

    Returns:
        (n,) float32.

    Raises:
        InvalidInput: a score is not finite as a float32, or would no longer be.
    """
    with np.errstate(over="ignore"):
        values = np.array(scores, np.float32)
    if not np.isfinite(values).all():
        raise InvalidInput(f"score {values[~np.isfinite(values)][0]} cannot be ranked")
    bits = values.view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, -(bits & _MAGNITUDE), bits)
    steps = np.arange(len(keys))
    # With k'[i] + i the recurrence is a running minimum.
    lowered = np.minimum.accumulate(keys + steps) - steps
    if np.array_equal(lowered, keys):
        return values
    back = np.where(lowered < 0, -lowered - (_MAGNITUDE + 1), lowered)
    fell = back.astype(np.int32).view(np.float32)
    if not np.isfinite(fell).all():
        raise InvalidInput("scores at the lowest float32 cannot be made to fall")
    return fell


def fallen(run: Run) -> dict[str, list[tuple[str, float]]]:
    """The run with each question's scores made to fall; see ``falling``.

    Raises:
        InvalidInput: a document stands twice, or a score cannot be ranked.
    """
    after: dict[str, list[tuple[str, float]]] = {}
    for query, ranked in run.items():
        documents = [document for document, _ in ranked]
        if len(set(documents)) != len(documents):
            twice = next(name for name in documents if documents.count(name) > 1)
            raise InvalidInput(f"run: question {query!r}: document {twice!r} stands twice")
        try:
            scores = falling([score for _, score in ranked])
        except InvalidInput as error:
            raise InvalidInput(f"run: question {query!r}: {error}") from None
        after[query] = list(zip(documents, scores.tolist(), strict=True))
    return after


def write_run(path: Path | str, run: Run, *, tag: str = "ragstone") -> None:
    """Write a TREC run; ``.gz`` at the end of the path compresses it.

    Documents are written in the given order and scores are made to fall (``falling``), in
    decimals that give the same float32, and the same double, back. A question without documents
    has no line. The file is complete or absent: it is written aside and renamed.

    Raises:
        InvalidInput: an id or the ``tag`` is empty or holds whitespace, a document stands twice
            for a question, or a score is not finite.
    """
    target = Path(path)
    _check_name(tag, "tag")
    lines = _lines(fallen(run), tag)
    if not target.parent.is_dir():
        raise NotFound(f"{target}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InvalidInput(f"{target}: is a folder; name the file that the run is written to")
    aside = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        with aside.open("xb") as file:
            if target.suffix == ".gz":
                # No name and no time in the header: the same run is the same bytes.
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(lines)
            else:
                file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _lines(run: Run, tag: str) -> list[bytes]:
    lines = []
    for query, ranked in run.items():
        _check_name(query, "question")
        for rank, (document, score) in enumerate(ranked, 1):
            _check_name(document, "document")
            lines.append(f"{query} Q0 {document} {rank} {score!r} {tag}\n".encode())
    return lines


def _check_name(name: str, what: str) -> None:
    if name.split() != [name]:
        flaw = "holds whitespace" if name else "is empty"
        raise InvalidInput(f"run: {what} {name!r} {flaw}, which TREC's format cannot hold")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"run: {what} {name!r} is no valid Unicode") from None


def read_run(path: Path | str) -> dict[str, list[tuple[str, float]]]:
    """Read a TREC run, by anyone, compressed or not.

    Documents come by falling score; ties keep the order of the file (trec_eval would break them
    by falling document id). Ranks are ignored, as trec_eval does.

    Raises:
        NotFound: there is no such file.
        BadRow: a line has not six columns, its score is no finite number, or its document stands
            twice for the question; the message names file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"{file}: no such run")
    run: dict[str, dict[str, float]] = {}
    for line, query, document, score in _entries(file):
        its = run.setdefault(query, {})
        if document in its:
            found = f"{document!r} stands twice for question {query!r}"
            raise BadRow(file, line, "docid", found, "keep one of the two lines")
        its[document] = score
    return {q: sorted(its.items(), key=lambda entry: -entry[1]) for q, its in run.items()}


def _entries(file: Path) -> Iterator[tuple[int, str, str, float]]:
    for line, raw in Lines(file, str(file)):
        try:
            cells = raw.decode().split()
        except UnicodeDecodeError:
            raise BadRow(file, line, "row", "not UTF-8", "save the file as UTF-8") from None
        if not cells:
            continue
        if len(cells) != 6:
            raise BadRow(file, line, "row", f"{len(cells)} columns, not 6", _FORM)
        query, _, document, _, text, _ = cells
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise BadRow(file, line, "score", f"{text!r} is no finite number", _FORM)
        yield line, query, document, score
