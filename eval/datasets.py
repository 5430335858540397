"""A dataset: the questions of a collection, with judgements, gold answers or both."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from rag.errors import BadRow, InvalidInput, NotFound
from rag.eval.tables import Asked, Judgements, read_answers, read_qrels, read_queries
from rag.sources.settings import COMPRESSIONS
from rag.sources.tasks import is_task, task_folder

DEFAULT_SPLITS = ("test", "dev")
"""Taken in this order where no split is named."""


@dataclass(frozen=True)
class Dataset:
    """Questions that a pipeline is measured on.

    Attributes:
        name: The folder's name.
        path: The folder.
        split: Which judgements these are, or None where the folder has none and names no splits.
        questions: Text by question id: those that are judged or have a gold answer.
        qrels: Grade by question id and document id; empty where nothing is judged.
        answers: Gold answers by question id; only questions that have one stand here.
    """

    name: str
    path: Path
    split: str | None
    questions: dict[str, str]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, tuple[str, ...]]


def load(path: Path | str, *, split: str | None = None) -> Dataset:
    """The dataset in a folder; each of its files may be compressed.

    What is no path may be the name of a task such as ``beir/scifact`` or ``loco/qmsum``, which is
    downloaded (``rag.sources.tasks``).

    - ``queries.jsonl``: ``{"_id", "text"}`` a line.
    - ``qrels/<split>.tsv``, or flat: ``qrels.tsv`` is the split ``test``, ``qrels_<split>.tsv``
      another. Three columns (BEIR) or four (TREC). The default is ``test``, else ``dev``, else
      the only one.
    - ``qa.jsonl``: ``{"id", "question", "answers"}`` a line. Rows may name their ``split``. Rows
      that name none belong to the split that is loaded, unless the folder has several splits:
      then only those that the split judges.

    Raises:
        NotFound: the folder, the split or the files that are needed are not there.
        BadRow: a line cannot be used; the message names file, line, field and the fix.
        InvalidInput: there are several splits and none is named.
    """
    folder = task_folder(str(path)) if is_task(path) else Path(path)
    if not folder.is_dir():
        absent = "is a file" if folder.exists() else "does not exist"
        raise NotFound(f"{folder}: {absent}; a dataset is a folder with queries and judgements")
    queries_file, answers_file = _file(folder, "queries.jsonl"), _file(folder, "qa.jsonl")
    judged = _qrels_files(folder)
    if answers_file is None and (queries_file is None or not judged):
        raise NotFound(_lacking(folder))
    asked = read_answers(answers_file) if answers_file else {}
    named = list(judged) or list(dict.fromkeys(row.split for row in asked.values() if row.split))
    chosen = _choose(folder, named, split)
    qrels_file = judged.get(chosen) if chosen else None
    judgements = read_qrels(qrels_file) if qrels_file else Judgements({}, {})
    known = {name: row.question for name, row in asked.items()}
    known |= read_queries(queries_file) if queries_file else {}
    if qrels_file:
        _check_known(qrels_file, judgements, known)
    answers = _answers(asked, judgements, chosen, several=len(judged) > 1)
    wanted = judgements.grades.keys() | answers.keys()
    questions = {name: text for name, text in known.items() if name in wanted}
    if not questions:
        raise InvalidInput(f"{folder}: no question has a judgement or a gold answer")
    return Dataset(folder.resolve().name, folder, chosen, questions, judgements.grades, answers)


def _file(folder: Path, name: str) -> Path | None:
    """The file of this name, plain or compressed."""
    candidates = [folder / (name + suffix) for suffix in ("", *COMPRESSIONS)]
    return next((file for file in candidates if file.is_file()), None)


def _qrels_files(folder: Path) -> dict[str, Path]:
    """Split to its file of judgements; a folder ``qrels`` goes before flat files."""
    found: dict[str, Path] = {}
    for file in sorted([*folder.glob("qrels/*.tsv*"), *folder.glob("qrels*.tsv*")]):
        stem, _, suffix = file.name.partition(".tsv")
        if file.is_file() and suffix in ("", *COMPRESSIONS):
            nested = file.parent != folder
            split = stem if nested else stem.removeprefix("qrels").removeprefix("_") or "test"
            found.setdefault(split, file)
    return found


def _lacking(folder: Path) -> str:
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    return (
        f"{folder}: no dataset; looked for queries.jsonl with qrels/<split>.tsv, qrels.tsv or "
        f"qrels_<split>.tsv, or for qa.jsonl (each also with {', '.join(COMPRESSIONS)}); "
        f"found {there}"
    )


def _choose(folder: Path, splits: list[str], wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted in splits:
            return wanted
        near = difflib.get_close_matches(wanted, splits, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        have = ", ".join(sorted(splits)) or "none"
        raise NotFound(f"{folder}: no split {wanted!r}; {hint}there are: {have}")
    for split in DEFAULT_SPLITS:
        if split in splits:
            return split
    if len(splits) > 1:
        have = ", ".join(sorted(splits))
        raise InvalidInput(f"{folder}: has several splits; name one of {have} (--split)")
    return splits[0] if splits else None


def _check_known(file: Path, judgements: Judgements, known: dict[str, str]) -> None:
    for name, line in judgements.lines.items():
        if name not in known:
            found = f"{name!r} is in neither queries.jsonl nor qa.jsonl"
            fix = "add the question, or remove its judgements"
            raise BadRow(file, line, "query-id", found, fix)


def _answers(
    asked: dict[str, Asked], judgements: Judgements, split: str | None, *, several: bool
) -> dict[str, tuple[str, ...]]:
    """The gold answers of the split."""
    kept = {}
    for name, row in asked.items():
        here = row.split == split if row.split else not several or name in judgements.grades
        if here and row.answers:
            kept[name] = row.answers
    return kept
