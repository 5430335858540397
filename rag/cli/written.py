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
    hits: the hits, in this order.
    """

    found: list[list[dict[str, Any]]]
    hits: list[Hit]

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
        for hit, entries, (title, text) in zip(hits, evidence, texts, strict=True):
            entries = entries or []
            where: list[dict[str, tuple[int, int]]] = [{} for _ in entries]
            if tokenizer is not None:
                where = spans(entries, title or "", text or "", tokenizer)
            if hit.text != text:  # a later stage has cut or rewritten it
                where = [{n: span for n, span in its.items() if n == "title"} for its in where]
            placed = [entry | {"spans": its} for entry, its in zip(entries, where, strict=True)]
            # n-grams before single tokens, by what they add here: not all of a key's weight counts.
            placed.sort(key=lambda entry: (entry["kind"] == "token", -entry["weight"]))
            found.append(placed)
        return cls(found, hits)

    def highlights(self, hit: Hit, most: int | None = None) -> dict[str, list[tuple[int, int]]]:
        """Where n-grams stand in the title and the text of a hit; single tokens do not count."""
        marked: dict[str, list[tuple[int, int]]] = {"title": [], "text": []}
        for entry in self.found[self.hits.index(hit)]:
            for name, span in entry["spans"].items() if entry["kind"] != "token" else ():
                marked[name].append(span)
        return {name: _united(spans) for name, spans in marked.items()}

    def evidence(self, place: int) -> list[dict[str, Any]]:
        """The n-grams of a hit as ``--json`` prints them.

        ``ngram`` is what stands at the character ``offset`` of the ``field`` "title" or "text" of
        the passage. An n-gram that begins in the title and ends in the text has the offset of its
        beginning; where it is white space alone, a later stage has changed the text, or the
        tokenizer does not say what its tokens stand for, field and offset are null and ``ngram`` is
        the text of its tokens. ``position`` is the number of its last token in the passage.
        """
        texts = {"title": self.hits[place].title, "text": self.hits[place].text}
        made = []
        for entry in self.found[place]:
            said: dict[str, Any] = {"ngram": entry["ngram"], "kind": entry["kind"]}
            said |= {"weight": entry["weight"], "field": None, "offset": None}
            said["position"] = entry["position"]
            for field, (start, _) in list(entry["spans"].items())[:1]:
                said |= {"field": field, "offset": start}
            if len(entry["spans"]) == 1:
                ((field, (start, end)),) = entry["spans"].items()
                said["ngram"] = texts[field][start:end]
            made.append(said)
        return made

    def table(self, rank: int, hit: Hit) -> Any:
        """What the best n-grams of a hit add to its score, and the others together."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(
            "n-gram", "from", "stands in", "weight",
            title=escape(f"{rank}. {hit.id}: n-grams of {hit.title or 'the passage'}"),
            title_justify="left",
        )  # fmt: skip
        found = self.found[self.hits.index(hit)]
        for entry in found[:LISTED]:
            said = Text(entry["ngram"].strip() or repr(entry["ngram"]), overflow="fold")
            where = ", ".join(f"{name} {span[0]}" for name, span in entry["spans"].items())
            table.add_row(said, entry["kind"], where, f"{entry['weight']:.3f}")
        rest = found[LISTED:]
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
