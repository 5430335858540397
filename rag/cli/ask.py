"""The commands that ask a collection."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.cli.output import JsonFlag, console, print_json
from rag.cli.spread import OfPartial, OfRay, OfShards

if TYPE_CHECKING:
    from rag.batch import Batch
    from rag.cli.hits import Asked
    from rag.cli.terms import Terms
    from rag.cli.written import Written
    from rag.pipeline import Answer, Pipeline


class SyntaxOf(StrEnum):
    """How ``rag.retrievers.lexical_query`` reads a query."""

    plain = "plain"
    phrases = "phrases"


Question = Annotated[str, typer.Argument(help="The question.", show_default=False)]
OfCollection = Annotated[
    Path | None,
    typer.Option("--collection", "-c", help="The collection's folder.", show_default=False),
]
OfWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Only passages whose fields fulfil it, in YAML: '{year: {gte: 1990}, lang: en}'.",
        show_default=False,
    ),
]
OfSyntax = Annotated[
    SyntaxOf | None,
    typer.Option(
        "--syntax",
        help="What quotes and stars mean to bm25: nothing, or 'phrases' and prefixes (begin*).",
        show_default=False,
    ),
]
WithPipeline = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        help="A shipped pipeline by name (bm25, bm25-extract, bm25-qa, seal), or a YAML file.",
        show_default=False,
    ),
]


def search(
    question: Question,
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 10,
    where: OfWhere = None,
    syntax: OfSyntax = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show what each word (bm25), n-gram (seal) or term (sparse) adds."
        ),
    ] = False,
    ray: OfRay = None,
    shards: OfShards = None,
    partial: OfPartial = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the best passages for a question, the words that match in bold.

    \b
    Examples:
      rag search "who discovered oxygen" -c wiki --where '{year: {gte: 1990}}'
      rag search '"discovered oxygen" chem*' -c wiki --syntax phrases --explain
      rag search "who discovered oxygen" -c wiki -p mine.yaml -k 5 --json
      rag search "who discovered oxygen" -c wiki -p seal --explain
      rag search "who discovered oxygen" -c wiki --ray local --shards 4
    """  # noqa: D301
    from rag.cli import hits as shown
    from rag.cli import narrow
    from rag.cli import spread as spreading
    from rag.cli.terms import Terms
    from rag.cli.written import Written

    found = loaded(pipeline, collection, top_k=k, where=where, syntax=syntax, explain=explain)
    with spreading.spread(found, ray, shards, partial) as opened:
        batch, row = _row(opened, question)
        hits = list(row.get("documents") or ())[:k]
        if where is not None:
            narrow.check(hits, opened, narrow.condition(where))
        asked = shown.Asked.of(opened, batch)
        written = Written.of(opened, batch, hits)
        terms = Terms.of(batch, len(hits))
        explained = None
        if explain:
            explained = _explained(opened, batch, asked, written or terms, len(hits))
    lacking = row.get("partial")
    spreading.warn(lacking)
    by = asked or written
    marked = None if by is None else by.highlights
    if as_json:
        from rag.batch import as_json as plain

        said = [plain(hit) for hit in hits]
        for place, (hit, value) in enumerate(zip(hits, said, strict=True)):
            value |= {"highlights": plain(marked(hit))} if marked is not None else {}
            value |= {"explain": plain(explained[place])} if explained is not None else {}
            if explain and (written or terms):
                parts = (
                    written.evidence(place) if written else [],
                    terms.found[place] if terms else [],
                )
                value["evidence"] = [*parts[0], *parts[1]]
        may_be = spreading.may_be_partial(found)
        print_json({"partial": lacking, "documents": said} if may_be else said)
    elif not hits:
        print(_NONE[asked is not None] if where is None else _NOTHING[asked is not None])
    else:
        shown.print_hits(hits, marked, explained, written if explain else None, terms)


_NONE = "no passage was found", "no passage has a word of the question"
_NOTHING = (
    "no passage that --where lets pass was found",
    "no passage that --where lets pass has a word of the question",
)


def _row(opened: Pipeline, question: str) -> tuple[Batch, dict[str, Any]]:
    """The batch of one question and its row; raises what a stage could not do."""
    from rag.errors import StageFailed

    batch = opened.run([question])
    row = batch.row(0)
    if row["error"] is not None:
        raise StageFailed(f"stage {row['error']['stage']!r}: {row['error']['message']}")
    return batch, row


def _explained(
    opened: Pipeline,
    batch: Batch,
    asked: Asked | None,
    other: Written | Terms | None,
    count: int,
) -> list[list[dict[str, Any]]] | None:
    """What ``bm25`` says of each passage; None where only ``other`` evidence does."""
    from rag.errors import InvalidInput

    if asked is None:
        if other is not None:
            return None
        raise InvalidInput(
            f"--explain: pipeline {opened.name!r} has no stage bm25 over its collection and no "
            "evidence of seal or sparse, and other scores are not explained; leave it out, or "
            "search without -p"
        )
    if "documents" not in batch:
        return []
    return [asked.explain(number) for number in batch["documents"].docs[:count].tolist()]


def ask(
    question: Question,
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    where: OfWhere = None,
    syntax: OfSyntax = None,
    ray: OfRay = None,
    shards: OfShards = None,
    partial: OfPartial = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer a question, with citations.

    On a terminal the answer of a language model is shown as it is written, if its backend can.

    \b
    Examples:
      rag ask "Who discovered oxygen?" -c wiki -p bm25-extract
      rag ask "Who discovered oxygen?" -c wiki -p bm25-qa --json
      rag ask "Who discovered oxygen?" -c wiki --where '{lang: en}'
      rag ask "Who discovered oxygen?" -c wiki -p mine.yaml --ray 10.0.0.5:6379 --shards 4
    """  # noqa: D301
    from rag.cli import narrow
    from rag.cli import spread as spreading
    from rag.errors import InvalidInput

    found = loaded(pipeline, collection, where=where, syntax=syntax)
    with spreading.spread(found, ray, shards, partial) as opened:
        if "answer" not in opened.columns.types:
            raise InvalidInput(
                f"pipeline {opened.name!r} writes no answer; use bm25-extract, or add a reader"
            )
        answer, shown = _answered(opened, question, shows=not as_json and sys.stdout.isatty())
        if where is not None:
            narrow.check(answer.documents, opened, narrow.condition(where))
    spreading.warn(answer.partial)
    if as_json:
        from rag.batch import as_json as plain

        may_be = {"partial": answer.partial} if spreading.may_be_partial(found) else {}
        print_json(
            may_be
            | {
                "question": question,
                "answer": answer.text,
                "citations": plain(answer.citations),
                "confidence": answer.confidence,
                "route": answer.route,
                "documents": plain(answer.documents),
            }
        )
        return
    from rich.markup import escape

    out = console()
    if shown is None or shown.strip() != answer.text:
        out.print(f"[bold]{escape(answer.text or 'no answer')}[/bold]")
    facts = [f"confidence {answer.confidence:.2f}"] if answer.confidence is not None else []
    facts += [answer.route] if answer.route else []
    if facts:
        out.print(f"[dim]{escape(', '.join(facts))}[/dim]")
    for cited in answer.citations:
        out.print(f"\n\\[{cited.marker}] [bold]{escape(cited.title)}[/bold] ({escape(cited.id)})")
        out.print(f"    “{escape(cited.text)}”", soft_wrap=False)


def _answered(opened: Pipeline, question: str, *, shows: bool) -> tuple[Answer, str | None]:
    """The answer, and what was shown of it as it was written; None where that is nothing.

    What was shown may differ: a stage after it, or the check of its markers, may change the text.
    """
    if not shows:
        return opened.ask(question), None
    from rich.text import Text

    out, said = console(), list[str]()
    events = opened.stream(question)
    try:
        for event in events:
            if event.kind == "token":
                said.append(event.value)
                piece = event.value.lstrip() if len(said) == 1 else event.value
                out.print(Text(piece, style="bold"), end="", soft_wrap=True)
    finally:
        events.close()
        if said:
            print(flush=True)  # ends the line of what was written, whole or not
    answer: Answer = event.value
    return answer, "".join(said) or None


def loaded(
    pipeline: str | None,
    collection: Path | None,
    *,
    top_k: int | None = None,
    where: str | None = None,
    syntax: SyntaxOf | None = None,
    explain: bool = False,
) -> Pipeline:
    """The pipeline that is named, else the collection's own, else BM25 with an extractor.

    For a search (``top_k``) without a pipeline it is BM25 alone. ``where``, ``syntax`` and
    ``explain`` go to all its stages that know them.
    """
    from rag.cli import narrow

    settings: dict[str, Any] = {}
    if where is not None:
        settings["where"] = narrow.condition(where)
    if syntax is not None:
        settings["syntax"] = syntax.value
    found = _named(pipeline, collection, top_k)
    if explain and any("explain" in type(s).model_fields for s in narrow.every(found.stages)):
        settings["explain"] = True
    return narrow.changed(found, settings) if settings else found


def _named(pipeline: str | None, collection: Path | None, top_k: int | None) -> Pipeline:
    from rag.pipeline import Pipeline

    opened: Any = None
    if collection is not None:
        from rag.collection import Collection

        opened = Collection.open(collection)
        if pipeline is None:
            pipeline = opened.snapshot().manifest.pipeline
    if pipeline is None and top_k is not None:
        from rag.retrievers import BM25

        return Pipeline([BM25(top_k=top_k)], opened, name="bm25")
    return Pipeline.load(pipeline or "bm25-extract", collection=opened)
