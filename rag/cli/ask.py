"""The commands that ask a collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.cli.output import JsonFlag, console, print_json

if TYPE_CHECKING:
    from rag.batch import Hit
    from rag.pipeline import Pipeline

Question = Annotated[str, typer.Argument(help="The question.", show_default=False)]
OfCollection = Annotated[
    Path | None,
    typer.Option("--collection", "-c", help="The collection's folder.", show_default=False),
]
WithPipeline = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        help="A shipped pipeline by name (bm25, bm25-extract, bm25-qa), or a YAML file.",
        show_default=False,
    ),
]


def search(
    question: Question,
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Print the best passages for a question.

    \b
    Examples:
      rag search "who discovered oxygen" -c wiki
      rag search "who discovered oxygen" -c wiki -p mine.yaml -k 5 --json
    """  # noqa: D301
    from rag.errors import StageFailed

    with loaded(pipeline, collection, top_k=k) as opened:
        row = opened.run([question]).row(0)
        if row["error"] is not None:
            raise StageFailed(f"stage {row['error']['stage']!r}: {row['error']['message']}")
        hits = list(row.get("documents") or ())[:k]
    if as_json:
        from rag.batch import as_json as plain

        print_json(plain(hits))
    elif not hits:
        print("no passage has a word of the question")
    else:
        _print_hits(hits)


def _print_hits(hits: list[Hit]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "score", "id", "passage", show_lines=True)
    for rank, hit in enumerate(hits, 1):
        passage = Text(f"{hit.title}\n" if hit.title else "", style="bold")
        passage.append(hit.text[:300] + ("…" if len(hit.text) > 300 else ""), style="not bold")
        table.add_row(str(rank), f"{hit.score:.3f}", Text(hit.id, overflow="fold"), passage)
    console().print(table)


def ask(
    question: Question,
    collection: OfCollection = None,
    pipeline: WithPipeline = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer a question, with citations.

    \b
    Examples:
      rag ask "Who discovered oxygen?" -c wiki -p bm25-extract
      rag ask "Who discovered oxygen?" -c wiki -p bm25-qa --json
    """  # noqa: D301
    from rag.errors import InvalidInput

    with loaded(pipeline, collection) as opened:
        if "answer" not in opened.columns.types:
            raise InvalidInput(
                f"pipeline {opened.name!r} writes no answer; use bm25-extract, or add a reader"
            )
        answer = opened.ask(question)
    if as_json:
        from rag.batch import as_json as plain

        print_json(
            {
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
    out.print(f"[bold]{escape(answer.text or 'no answer')}[/bold]")
    facts = [f"confidence {answer.confidence:.2f}"] if answer.confidence is not None else []
    facts += [answer.route] if answer.route else []
    if facts:
        out.print(f"[dim]{escape(', '.join(facts))}[/dim]")
    for cited in answer.citations:
        out.print(f"\n\\[{cited.marker}] [bold]{escape(cited.title)}[/bold] ({escape(cited.id)})")
        out.print(f"    “{escape(cited.text)}”", soft_wrap=False)


def loaded(pipeline: str | None, collection: Path | None, *, top_k: int | None = None) -> Pipeline:
    """The pipeline that is named, else the collection's own, else BM25 with an extractor.

    For a search (``top_k``) without a pipeline it is BM25 alone.
    """
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
