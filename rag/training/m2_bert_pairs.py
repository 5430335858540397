"""The objective ``orthogonal_projection``: fine-tuning by single pairs, as of M2-BERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, model_validator

from rag.errors import InvalidInput
from rag.training import bi_encoder_score as scoring
from rag.training.objective import Objective, Scores, Task

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Split

JOINT = " "
"""What stands between title and text of a document, as in an index of an encoder."""


class OrthogonalProjection(Objective, name="orthogonal_projection"):
    """Train an encoder by pairs: cosine 1 where a document answers a question, else 0.

    The loss is the mean over pairs of (cos(q, d) - label)^2, sentence-transformers'
    ``CosineSimilarityLoss`` (``rag.encoders.m2_bert.loss``). It compares no texts of a batch, so a
    pass may hold one pair, and its texts may be as long as memory lets one be (arXiv 2402.07440).

    By default a pair of a question and its document comes with ``negatives`` pairs of that question
    and other documents, drawn anew for each pass. With ``in_batch`` every question of a pass is
    paired with every document of it instead, which costs nothing more: for small machines.

    ``model`` is any encoder of sentence-transformers. With ``length`` a shorter M2-BERT is first
    made one that reads so many tokens (``rag.encoders.m2_bert.longer``).
    """

    negatives: int = Field(
        32, ge=0, description="Other documents that each question is paired with; not in_batch."
    )
    in_batch: bool = Field(
        False, description="Pair all questions of a pass with all documents of it instead."
    )
    positive_weight: float = Field(
        1.0, gt=0, description="What a pair with label 1 counts, with in_batch."
    )
    length: int | None = Field(
        None, gt=2, description="Make an M2-BERT that reads so many tokens; default: as it is."
    )
    question_length: int | None = Field(
        None, gt=2, description="The most tokens of a question; default: of a document."
    )
    short_first: bool = Field(
        False, description="Each epoch from short documents to long ones; default: shuffled."
    )
    kernel_rate: float | None = Field(
        None, gt=0, description="Learning rate of an M2-BERT's kernels; default: of the rest."
    )
    cut: tuple[int, ...] = Field(
        (), description="Score the model also with documents cut to so many tokens."
    )
    candidates: int | None = Field(
        None, gt=0, description="Documents that held-back questions are asked of; default: all."
    )

    @model_validator(mode="after")
    def _fits(self) -> OrthogonalProjection:
        if self.positive_weight != 1 and not self.in_batch:
            raise ValueError("positive_weight counts with in_batch: true only; leave it out")
        return self

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the model and build the pairs.

        Raises:
            NotFound, InvalidInput, BackendFailed: the model cannot be used, or be made longer.
        """
        from rag.encoders.m2_bert.training import open_encoder, without_dropout

        encoder = open_encoder(model, self.length)
        without_dropout(encoder)
        return PairsTask(self, encoder, split, seed)


class Pair(NamedTuple):
    """A question and a document; None: one is drawn that does not answer it."""

    name: str
    document: str | None


class PairsTask(Task):
    """An opened objective ``orthogonal_projection``."""

    def __init__(
        self, settings: OrthogonalProjection, encoder: Any, split: Split, seed: int
    ) -> None:
        """Hold a ``SentenceTransformer`` and the data, and build the rows."""
        self._settings, self.model, self._split, self._seed = settings, encoder, split, seed
        self._names = list(split.train.documents)
        drawn = 0 if settings.in_batch else settings.negatives
        positives = [Pair(q, d) for q in split.train.questions for d in split.train.positives(q)]
        self.rows = [row for pair in positives for row in (pair, *[Pair(pair.name, None)] * drawn)]
        most = max((len(split.train.positives(q)) for q in split.train.questions), default=0)
        if drawn and most >= len(self._names):
            raise InvalidInput("a question is answered by all documents: none is left to draw")

    def order(self, draw: np.random.Generator) -> Sequence[int]:
        """Shuffled, or by the characters of the documents."""
        numbers: list[int] = draw.permutation(len(self.rows)).tolist()
        if self._settings.short_first:
            documents = self._split.train.documents
            names = [row.document for row in self.rows]
            sizes = [len(documents[name].text) if name else 0 for name in names]
            numbers.sort(key=lambda at: sizes[at])
        return numbers

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """Tokens of both sides, and labels: (n,) of pairs, or (n, n) of all with all."""
        import torch

        side = self._split.train
        names = [row.document or self._other(row.name, draw) for row in rows]
        texts = [scoring.passage_text(side.documents[name], JOINT) for name in names]
        relevant = [set(side.positives(row.name)) for row in rows]
        labels = (
            [[float(name in its) for name in names] for its in relevant]
            if self._settings.in_batch
            else [float(name in its) for name, its in zip(names, relevant, strict=True)]
        )
        return {
            "questions": self._tokens(
                [side.questions[row.name] for row in rows], self._settings.question_length
            ),
            "documents": self._tokens(texts, None),
            "labels": torch.tensor(labels),
        }

    def _other(self, question: str, draw: np.random.Generator) -> str:
        """A document of the training side that does not answer a question."""
        relevant = self._split.train.positives(question)
        while (name := self._names[draw.integers(len(self._names))]) in relevant:
            pass
        return name

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """The mean squared error of the cosines of all pairs."""
        from torch.nn import functional

        asked, read = (
            functional.normalize(model(dict(batch[side]))["sentence_embedding"].float(), dim=-1)
            for side in ("questions", "documents")
        )
        labels = batch["labels"]
        if labels.dim() == 1:
            return functional.mse_loss((asked * read).sum(-1), labels)
        weights = 1 + (self._settings.positive_weight - 1) * labels
        return (weights * (asked @ read.T - labels).square()).sum() / weights.sum()

    def tune(self, optimizer: Any) -> None:
        """Give the kernels a rate of their own."""
        if self._settings.kernel_rate is not None:
            from rag.encoders.m2_bert.training import rate_of_kernels

            rate_of_kernels(self.model, optimizer, self._settings.kernel_rate)

    def score(self) -> Scores:
        """nDCG@10 by cosine, of whole documents and of cut ones."""
        import torch

        documents = self._split.documents
        names = self._candidates()
        texts = [scoring.passage_text(documents[name], JOINT) for name in names]
        with torch.inference_mode():
            asked = self._vectors(
                list(self._split.held.questions.values()), self._settings.question_length
            )
            found: dict[str, Mapping[str, float]] = {}
            for cut in (None, *self._settings.cut):
                products = (asked @ self._vectors(texts, cut).T).numpy()
                for measure, values in scoring.ndcg(self._split, names, products).items():
                    found[measure if cut is None else f"{measure} cut to {cut}"] = values
        return found

    def references(self) -> dict[str, Mapping[str, float]]:
        """BM25 over the same documents."""
        return {"BM25": scoring.bm25(self._split, self._candidates())}

    def notes(self) -> list[str]:
        """What the pairs are, and how many documents are ranked."""
        settings = self._settings
        what = (
            "every question of a pass with every document of it"
            if settings.in_batch
            else f"{settings.negatives} with other documents for each that belongs together"
        )
        count = sum(row.document is not None for row in self.rows)
        most = self.model.max_seq_length
        return [
            f"{count:,} pairs of a question and a document that answers it; {what}.",
            f"Scores are of {len(self._candidates()):,} documents; {most:,} tokens are read.",
        ]

    def save(self, folder: Path) -> None:
        """As sentence-transformers does."""
        from rag.models.load import quiet

        with quiet():
            self.model.save(str(folder), create_model_card=False)

    def _candidates(self) -> list[str]:
        return scoring.candidates(self._split, self._settings.candidates, self._seed)

    def _tokens(self, texts: Sequence[str], longest: int | None) -> dict[str, Any]:
        most = self.model.max_seq_length
        made = self.model.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(most, longest or most),
            return_tensors="pt",
        )
        return {name: made[name] for name in ("input_ids", "attention_mask")}

    def _vectors(self, texts: list[str], longest: int | None) -> Any:
        """(n, d) float32 of length 1."""
        import torch
        from torch.nn import functional

        device = self.model.device

        def encode(tokens: dict[str, Any]) -> Any:
            placed = {name: value.to(device) for name, value in tokens.items()}
            return self.model(placed)["sentence_embedding"].float().cpu()

        made = scoring.encoded(texts, lambda some: self._tokens(some, longest), encode)
        return functional.normalize(torch.stack(made), dim=-1)
