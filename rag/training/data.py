"""The data of a recipe: documents and judged questions, on a training side and one held back."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from rag.collection.folders import key_of
from rag.errors import InvalidInput, NotFound
from rag.training.recipe import Data, HoldOut

SHOWN = 5
"""The most ids that an error lists."""


class Document(NamedTuple):
    """A document's title, perhaps empty, and text."""

    title: str
    text: str


@dataclass(frozen=True)
class Side:
    """One side of the data.

    Attributes:
        documents: By id, in the order of the source.
        questions: Text by id.
        qrels: Grade by question id and document id, of ``questions`` alone.
    """

    documents: Mapping[str, Document]
    questions: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def positives(self, question: str) -> list[str]:
        """The documents judged relevant for a question that this side holds."""
        grades = self.qrels.get(question, {})
        return [name for name, grade in grades.items() if grade > 0 and name in self.documents]


NOTHING = Side({}, {}, {})


@dataclass(frozen=True)
class Split:
    """Both sides, and what a report says of them.

    Attributes:
        train, held: The sides; they share nothing of what ``hold_out.by`` names.
        documents: All documents: what the held-back questions are asked of.
        hashes: Of the documents, the questions and the judgements, 24 hexadecimal digits each.
        dropped: Questions left out: their documents stand on both sides, or a question of the same
            words is held back.
    """

    train: Side
    held: Side
    documents: Mapping[str, Document]
    hashes: Mapping[str, str]
    dropped: int = 0


def read(data: Data | None, hold_out: HoldOut | None, needs: frozenset[str]) -> Split:
    """Read the data and cut it.

    Raises:
        NotFound: a file or folder is absent, or what is needed is in none of them.
        BadRow: a row cannot be used; the message names file, line and field.
        InvalidInput: a side is empty, an id to be held back is not there, or something stands on
            both sides.
    """
    if data is None:
        return Split(NOTHING, NOTHING, {}, {})
    documents = _documents(data.path)
    every = Side(documents, {}, {})
    if "questions" in needs:
        every = _asked(data, data.split, documents)
    hashes = {
        "documents": key_of([[name, *document] for name, document in sorted(documents.items())]),
        "questions": key_of(sorted(every.questions.items())),
        "judgements": key_of(sorted((q, sorted(its.items())) for q, its in every.qrels.items())),
    }
    if hold_out is None:
        return Split(every, NOTHING, documents, hashes)
    if hold_out.by == "split":
        held = _asked(data, hold_out.split, documents)
        hashes["held_questions"] = key_of(sorted(held.questions.items()))
        # Published splits share a question now and then: it is scored, and not learned from.
        taken = {_plain(text) for text in held.questions.values()}
        kept = {name for name, text in every.questions.items() if _plain(text) not in taken}
        if kept:
            dropped = len(every.questions) - len(kept)
            split = Split(_of(every, documents, kept), held, documents, hashes, dropped)
        else:
            split = Split(every, held, documents, hashes)
    else:
        split = _cut(every, hold_out, hashes)
    check(split, hold_out.by)
    return replace(split, held=_sample(split.held, hold_out))


def check(split: Split, by: str) -> None:
    """Refuse sides that are empty or that share what they must not.

    Raises:
        InvalidInput: it names what is on both sides.
    """
    train, held = split.train, split.held
    for side, what in ((train, "training"), (held, "held-back")):
        if not side.documents or (train.questions and not side.questions):
            lacks = "documents" if not side.documents else "questions"
            raise InvalidInput(
                f"the {what} side holds no {lacks} ({_size(train)} for training, {_size(held)} "
                "held back); change hold_out"
            )
    _apart("question", set(train.questions), set(held.questions))
    texts = {_plain(text): name for name, text in train.questions.items()}
    both = [name for name, text in held.questions.items() if _plain(text) in texts]
    _apart("text of a question", set(both), set(both))
    if by in ("document", "article"):
        _apart("document", set(train.documents), set(held.documents))
        bodies = {_plain(d.text) for d in train.documents.values()}
        both = [name for name, d in held.documents.items() if _plain(d.text) in bodies]
        _apart("text of a document", set(both), set(both))
        judged = ({d for q in side.questions for d in side.positives(q)} for side in (train, held))
        _apart("judged document", *judged)
    if by == "article":
        _apart("article", _titles(train), _titles(held))


def _apart(what: str, one: set[str], other: set[str]) -> None:
    both = sorted(one & other)
    if both:
        some = ", ".join(map(repr, both[:SHOWN])) + (" ..." if len(both) > SHOWN else "")
        raise InvalidInput(
            f"{len(both)} times the same {what} is on the training side and held back: {some}; "
            "what is scored must not be trained on; remove one of the two or change hold_out"
        )


def _size(side: Side) -> str:
    return f"{len(side.documents):,} documents and {len(side.questions):,} questions"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def _titles(side: Side) -> set[str]:
    return {_plain(document.title) for document in side.documents.values()} - {""}


def _documents(path: str) -> dict[str, Document]:
    """The documents of a source, or the passages of a collection, by id."""
    from rag.collection import Collection
    from rag.collection.manifest import numbers
    from rag.sources import Reader, detect

    columns = ("id", "title", "text")
    if numbers(Path(path)):
        batches = Collection.open(path).snapshot().passages()
    else:
        batches = iter(Reader(detect(path)))
    found: dict[str, Document] = {}
    for batch in batches:
        for name, title, text in zip(*(batch[c].to_pylist() for c in columns), strict=True):
            found[name] = Document(title, text)
    if not found:
        raise InvalidInput(f"{path}: holds no documents")
    return found


def _asked(data: Data, split: str | None, documents: Mapping[str, Document]) -> Side:
    """The judged questions of a split that have a relevant document here."""
    from rag.eval import datasets

    folder = data.questions or data.path
    loaded = datasets.load(folder, split=split)
    if not loaded.qrels:
        raise NotFound(
            f"{folder}: its questions have no judgements; add qrels/train.tsv with query-id, "
            "corpus-id and score"
        )
    side = Side(documents, {}, loaded.qrels)
    questions = {name: text for name, text in loaded.questions.items() if side.positives(name)}
    if not questions:
        judged = next(iter(next(iter(loaded.qrels.values()), {})), "none")
        raise InvalidInput(
            f"{folder}: no judged document is among the {len(documents):,} of {data.path} (the "
            f"judgements name {judged!r} and others); judgements and documents must have one set "
            "of ids"
        )
    return Side(documents, questions, {name: dict(loaded.qrels[name]) for name in questions})


def _cut(every: Side, hold_out: HoldOut, hashes: Mapping[str, str]) -> Split:
    """Hold back groups of documents, or of questions, that nothing ties to the others."""
    if hold_out.by == "question":
        names = _groups({name: [_plain(text)] for name, text in every.questions.items()})
        held = _held(names, dict.fromkeys(every.questions, ""), hold_out)
        return Split(_of(every, every.documents, set(every.questions) - held),
                     _of(every, every.documents, held), every.documents, hashes)  # fmt: skip
    ties = {}
    for name, document in every.documents.items():
        title = _plain(document.title) if hold_out.by == "article" else ""
        ties[name] = [f"text {_plain(document.text)}"] + ([f"title {title}"] if title else [])
    titles = {name: _plain(document.title) for name, document in every.documents.items()}
    held = _held(_groups(ties), titles if hold_out.by == "article" else {}, hold_out)
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for question in every.questions:
        where = {name in held for name in every.positives(question)}
        if len(where) == 1:
            sides[where.pop()].add(question)
    documents = {
        back: {name: d for name, d in every.documents.items() if (name in held) == back}
        for back in (True, False)
    }
    dropped = len(every.questions) - sum(map(len, sides.values()))
    train, back = (_of(every, documents[held], sides[held]) for held in (False, True))
    return Split(train, back, every.documents, hashes, dropped)


def _of(every: Side, documents: Mapping[str, Document], questions: set[str]) -> Side:
    return Side(
        documents,
        {name: text for name, text in every.questions.items() if name in questions},
        {name: its for name, its in every.qrels.items() if name in questions},
    )


def _groups(ties: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Names in groups: those that share a tie, directly or through others, stand together."""
    parent = {name: name for name in ties}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for name, its in ties.items():
        for tie in its:
            parent[root(name)] = root(owner.setdefault(tie, name))
    groups: dict[str, list[str]] = {}
    for name in ties:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _held(groups: list[list[str]], titles: Mapping[str, str], hold_out: HoldOut) -> set[str]:
    """The names held back: whole groups."""
    if hold_out.ids is not None:
        wanted = {_plain(one) if titles else one for one in hold_out.ids}
        names = {name for group in groups for name in group}
        known = {titles.get(name) or name for name in names} if titles else names
        if absent := sorted(wanted - known):
            raise InvalidInput(
                f"hold_out.ids: there is no {hold_out.by} {absent[0]!r} "
                f"({len(absent)} of {len(wanted)} are not there)"
            )
        called = [{titles.get(name) or name for name in group} for group in groups]
        return {n for group, its in zip(groups, called, strict=True) if its & wanted for n in group}
    order = list(range(len(groups)))
    random.Random(hold_out.seed).shuffle(order)
    count = round(len(groups) * (hold_out.share or 0.0))
    return {name for number in order[:count] for name in groups[number]}


def _sample(held: Side, hold_out: HoldOut) -> Side:
    """The held-back side with fewer questions (or documents, where nothing is asked) to score."""
    names = list(held.questions or held.documents)
    if hold_out.sample is None or hold_out.sample >= len(names):
        return held
    kept = set(random.Random(hold_out.seed).sample(sorted(names), hold_out.sample))
    if held.questions:
        return _of(held, held.documents, kept)
    return replace(held, documents={n: d for n, d in held.documents.items() if n in kept})
