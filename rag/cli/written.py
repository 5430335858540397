"""How the evidence of ``seal`` is shown: n-grams marked in the passages, and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.cli.narrow import every

if TYPE_CHECKING:
    from rag.batch import Batch, Hit
    from rag.indexers.token_ids import TokenIds
    from rag.pipeline import Pipeline

LISTED = 12
"""How many n-grams of a passage a table lists."""


@dataclass(frozen=True)
class Written:
    """The n-grams of the hits of one question.

    found: the evidence of each hit (``rag.retrievers.seal.evidence``) and, with it, ``spans``: its
        characters in "title" and "text".
    places: the place of each hit, by id.
    """

    found: list[list[dict[str, Any]]]
    places: dict[str, int]

    @classmethod
    def of(cls, pipeline: Pipeline, batch: Batch, hits: list[Hit]) -> Written | None:
        """Of the first row of ``batch``; None where its passages have no such evidence."""
        from rag.ranking import Ranking
        from rag.retrievers.seal.evidence import spans
        from rag.retrievers.seal.stage import EVIDENCE

        if "documents" not in batch:
            return None
        ranking = batch["documents"]
        if not isinstance(ranking, Ranking) or EVIDENCE not in ranking.evidence:
            return None
        found: list[list[dict[str, Any]]] = []
        tokenizer = _tokenizer(pipeline)
        stored = ranking.snapshot.rows(ranking.docs[: len(hits)], ("title", "text"))
        texts = zip(stored["title"].to_pylist(), stored["text"].to_pylist(), strict=True)
        evidence = ranking.evidence[EVIDENCE][: len(hits)]
        for entries, (title, text) in zip(evidence, texts, strict=True):
            entries = entries or []
            where: list[dict[str, tuple[int, int]]] = [{} for _ in entries]
            if tokenizer is not None:
                where = spans(entries, title or "", text or "", tokenizer)
            found.append(
                [entry | {"spans": its} for entry, its in zip(entries, where, strict=True)]
            )
        return cls(found, {hit.id: place for place, hit in enumerate(hits)})

    def highlights(self, hit: Hit, most: int | None = None) -> dict[str, list[tuple[int, int]]]:
        """Where n-grams stand in the title and the text of a hit; single tokens do not count."""
        marked: dict[str, list[tuple[int, int]]] = {"title": [], "text": []}
        for entry in self.found[self.places[hit.id]]:
            for name, span in entry["spans"].items() if entry["kind"] != "token" else ():
                marked[name].append(span)
        return {name: _united(spans) for name, spans in marked.items()}

    def table(self, rank: int, hit: Hit) -> Any:
        """What the best n-grams of a hit add to its score, and the others together."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(
            "n-gram", "from", "last token", "weight",
            title=escape(f"{rank}. {hit.id}: n-grams of {hit.title or 'the passage'}"),
            title_justify="left",
        )  # fmt: skip
        found = self.found[self.places[hit.id]]
        ngrams = [entry for entry in found if entry["kind"] != "token"]
        tokens = [entry for entry in found if entry["kind"] == "token"]
        tokens.sort(key=lambda entry: -entry["weight"])
        listed = (ngrams + tokens)[:LISTED]
        for entry in listed:
            said = Text(entry["ngram"].strip() or repr(entry["ngram"]), overflow="fold")
            where = str(entry["offset"])
            table.add_row(said, entry["kind"], where, f"{entry['weight']:.3f}")
        rest = (ngrams + tokens)[LISTED:]
        if rest:
            weight = sum(entry["weight"] for entry in rest)
            table.add_row(f"{len(rest)} more", "", "", f"{weight:.3f}", style="dim")
        return table


def _tokenizer(pipeline: Pipeline) -> TokenIds | None:
    """The tokenizer of the first index that a ``seal`` of the pipeline searches."""
    from rag.indexers import token_ids
    from rag.retrievers.seal.stage import Seal

    for stage in every(pipeline.stages):
        if isinstance(stage, Seal) and stage.collection is None:
            snapshot = pipeline.snapshot
            index = snapshot.index(snapshot.index_name("ngrams", stage.index))
            return token_ids.load(stage.model or index.settings.model)
    return None


def _united(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Apart from one another and ascending."""
    made: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if made and start <= made[-1][1]:
            made[-1] = made[-1][0], max(made[-1][1], end)
        else:
            made.append((start, end))
    return made
