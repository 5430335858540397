"""How the passages of a search are shown: matched words, and where their scores come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.cli.narrow import every
from rag.cli.output import console

if TYPE_CHECKING:
    from rich.text import Text

    from rag.batch import Batch, Hit
    from rag.cli.terms import Terms
    from rag.cli.written import Written
    from rag.indexers.lexical_index import LexicalIndex
    from rag.pipeline import Pipeline
    from rag.retrievers import BM25
    from rag.retrievers.lexical_query import LexicalQuery

SHOWN = 300
"""How many characters of a passage a table shows."""

Marked = Callable[..., dict[str, list[tuple[int, int]]]]
"""Where the title and the text of a hit match; given a number, in about so many characters."""


@dataclass(frozen=True)
class Asked:
    """What the first ``bm25`` of a pipeline was asked in a row."""

    stage: BM25
    index: LexicalIndex
    queries: list[tuple[str, LexicalQuery]]
    """Each query as it was written, and as it was read."""

    @classmethod
    def of(cls, pipeline: Pipeline, batch: Batch) -> Asked | None:
        """Of the first row of ``batch``; None where no ``bm25`` searches the collection."""
        from rag.retrievers import BM25
        from rag.retrievers.lexical_query import read

        for stage in every(pipeline.stages):
            if isinstance(stage, BM25) and stage.collection is None:
                snapshot = pipeline.snapshot
                index = snapshot.index(snapshot.index_name("lexical", stage.index))
                said = batch[stage.of][0] or []
                texts = [said] if isinstance(said, str) else list(said)
                return cls(
                    stage, index, [(text, read(text, index, stage.syntax)) for text in texts]
                )
        return None

    def highlights(self, hit: Hit, most: int | None = None) -> dict[str, list[tuple[int, int]]]:
        """Where the words of the queries stand in the title and the text of a hit.

        ``most``: only in about so many characters at the beginning of the text.
        """
        from rag.retrievers.highlight import spans

        terms = {term for _, query in self.queries for term in query.terms}
        texts = {"title": hit.title, "text": hit.text[:most]}
        return {name: spans(terms, text, self.index.tokenizer) for name, text in texts.items()}

    def explain(self, number: int) -> list[dict[str, Any]]:
        """For each query the BM25 score of a passage, and what each term adds to it."""
        made = []
        for text, query in self.queries:
            terms = self.index.explain(query.terms, number, k1=self.stage.k1, b=self.stage.b)
            made.append(
                {
                    "query": text,
                    "score": sum(term.score for term in terms),
                    "terms": [term._asdict() for term in terms],
                }
            )
        return made


def print_hits(
    hits: list[Hit],
    marked: Marked | None,
    explained: list[list[dict[str, Any]]] | None,
    written: Written | None,
    terms: Terms | None,
) -> None:
    """A table of the hits, with what matches in bold, and their explanations below.

    With ``written`` the texts are shown whole, and below them the weights of their n-grams; with
    ``terms`` those of vocabulary terms are.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table("", "score", "id", "passage", show_lines=True)
    for rank, hit in enumerate(hits, 1):
        name = Text(hit.id, overflow="fold")
        size = SHOWN if written is None else len(hit.text)
        table.add_row(str(rank), f"{hit.score:.3f}", name, _passage(hit, marked, size))
    out = console()
    out.print(table)
    for rank, (hit, queries) in enumerate(zip(hits, explained or (), strict=False), 1):
        for query in queries:
            out.print(_explanation(rank, hit, query))
    for evidence in (written, terms):
        for rank, hit in enumerate(hits if evidence is not None else (), 1):
            out.print(evidence.table(rank, hit))  # type: ignore[union-attr]


def _passage(hit: Hit, marked: Marked | None, size: int) -> Text:
    from rich.text import Text

    passage = Text(f"{hit.title}\n" if hit.title else "", style="bold")
    start = len(passage)
    passage.append(hit.text[:size] + ("…" if len(hit.text) > size else ""), style="not bold")
    # A word that begins in what is shown is looked at whole.
    spans = marked(hit, size + 1000) if marked is not None else {}
    for name, shift in (("title", 0), ("text", start)):
        for first, last in spans.get(name, ()):
            if name == "title" or first < size:
                end = last if name == "title" else min(last, size)
                passage.stylize("bold underline", shift + first, shift + end)
    return passage


def _explanation(rank: int, hit: Hit, explained: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    terms = explained["terms"]
    title = f"{rank}. {hit.id}: BM25 {explained['score']:.4f} for “{explained['query']}”"
    if terms:
        length, mean = terms[0]["length"], terms[0]["mean_length"]
        title += f" ({length} terms, on average {mean:.1f})"
    table = Table(
        "term", "in query", "in passage", "passages", "idf", "score", title=escape(title),
        title_justify="left",
    )  # fmt: skip
    for term in terms:
        table.add_row(
            escape(term["term"]), str(term["in_query"]), str(term["tf"]), f"{term['df']:,}",
            f"{term['idf']:.4f}", f"{term['score']:.4f}",
        )  # fmt: skip
    return table
