"""The objective ``bi_encoder``: fine-tuning of a pre-trained BERT, as RetroMAE and DupMAE do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rag.training import bi_encoder_rows as reading
from rag.training import bi_encoder_score as scoring
from rag.training.objective import Objective, Scores, Task

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Split

JOINT = " "
"""What stands between title and text of a passage, as in an index of an encoder."""


class BiEncoder(Objective, name="bi_encoder"):
    """Fine-tune an encoder whose vectors are compared: questions by passages.

    The paper's stages are three recipes, each from the model of the one before:

    1. in-batch negatives: without ``negatives``;
    2. hard negatives: ``negatives`` names the file that ``rag mine`` wrote with an index of the
       first model;
    3. distillation: with ``distill``, from a file that ``rag mine --scores`` wrote.

    The loss of 1 and 2 is the cross-entropy of each question's passage among all passages of the
    batch, hard negatives included. With t the cross-encoder's scores of a question's positive d+
    and its hard negatives D-, and s the model's, distillation is the cross-entropy

        - sum over d in d+ and D-  softmax(t)_d log softmax(s)_d

    which has the gradient of the KL divergence that the published code takes; that code adds 1e-4
    of the contrastive loss, and this does not. Scores are dot products (``similarity: dot``, as
    published) or cosines, divided by ``temperature`` in training.

    ``pooling`` is the vector of [CLS] (RetroMAE), the mean over tokens, or ``unified``: DupMAE's
    two parts (``rag.encoders.dupmae.represent``), [CLS] reduced and a weight for each token, of
    which a passage keeps the largest 384. ``load_encoder`` opens all three; ``unified`` is
    searched by the index kind ``dupmae``.
    """

    pooling: Literal["cls", "mean", "unified"] = Field(
        "cls", description="What the vector of a text is."
    )
    similarity: Literal["dot", "cosine"] = Field("dot", description="How vectors are compared.")
    temperature: float = Field(1.0, gt=0, description="Scores are divided by it in training.")
    negatives: str | None = Field(
        None, min_length=1, description="The file of hard negatives that rag mine wrote."
    )
    hard: int = Field(1, gt=0, description="Hard negatives of a question in a batch.")
    distill: bool = Field(False, description="Learn the scores of a cross-encoder.")
    dimensions: int = Field(384, gt=0, description="Of the reduced [CLS], where unified.")
    question_length: int = Field(32, gt=2, description="The most tokens of a question.")
    passage_length: int = Field(144, gt=2, description="The most tokens of a passage.")
    candidates: int | None = Field(
        None, gt=0, description="Documents that held-back questions are asked of; default: all."
    )

    @model_validator(mode="after")
    def _fits(self) -> BiEncoder:
        if self.distill and self.negatives is None:
            raise ValueError("distill needs negatives: a file of rag mine --scores")
        if self.pooling == "unified" and self.similarity != "dot":
            raise ValueError("unified vectors are compared by dot products; leave out similarity")
        return self

    def files(self, model: str) -> list[Path]:
        """Those of the model, and the negatives."""
        return super().files(model) + ([Path(self.negatives)] if self.negatives else [])

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the model and build the rows.

        Raises:
            NotFound, BadRow, InvalidInput: the model or the negatives cannot be used.
        """
        from rag.training.bi_encoder_model import load

        mined = None if self.negatives is None else Path(self.negatives)
        rows, said = reading.question_rows(split, mined, scored=self.distill)
        vectors, tokenizer = load(model, self.pooling, self.similarity, self.dimensions)
        return BiEncoderTask(self, vectors, tokenizer, split, rows, said, seed)


class BiEncoderTask(Task):
    """An opened objective ``bi_encoder``."""

    def __init__(
        self,
        settings: BiEncoder,
        model: Any,
        tokenizer: Any,
        split: Split,
        rows: list[reading.Row],
        said: list[str],
        seed: int,
    ) -> None:
        """Hold the model, the data and the rows."""
        self._settings, self._split, self._said, self._seed = settings, split, said, seed
        self.model, self._tokenizer, self.rows = model, tokenizer, rows

    def order(self, draw: np.random.Generator) -> Sequence[int]:
        """Rows of one passage far apart."""
        return reading.spread([row.positive for row in self.rows], draw)

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """Tokens of questions and of passages: the positives, then the hard negatives by row."""
        import torch

        drawn = [reading.sample(row, self._settings.hard, draw) for row in rows]
        names = [row.positive for row in rows] + [name for its, _ in drawn for name in its]
        documents = self._split.documents
        texts = [scoring.passage_text(documents[name], JOINT) for name in names]
        batch = {
            "questions": self._tokens([row.question for row in rows], "question"),
            "passages": self._tokens(texts, "passage"),
        }
        if self._settings.distill:
            batch["teacher"] = torch.tensor([scores for _, scores in drawn])
        return batch

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """Contrastive, or of distillation."""
        from rag.training.bi_encoder_model import contrastive, distilled

        asked = model(batch["questions"], document=False).float()
        read = model(batch["passages"], document=True).float()
        if self._settings.distill:
            return distilled(asked, read, batch["teacher"], self._settings.temperature)
        return contrastive(asked, read, self._settings.temperature)

    def score(self) -> Scores:
        """nDCG@10 by exact search."""
        import torch

        names = self._candidates()
        texts = [scoring.passage_text(self._split.documents[name], JOINT) for name in names]
        self.model.eval()
        device = next(self.model.parameters()).device

        def encode(kind: str, document: bool, given: list[str]) -> Any:
            def vectors(tokens: dict[str, Any]) -> Any:
                placed = {name: value.to(device) for name, value in tokens.items()}
                return self.model(placed, document=document).float().cpu()

            return torch.stack(scoring.encoded(given, lambda t: self._tokens(t, kind), vectors))

        with torch.inference_mode():
            read = encode("passage", True, texts)
            asked = encode("question", False, list(self._split.held.questions.values()))
            return scoring.ndcg(self._split, names, (asked @ read.T).numpy())

    def references(self) -> dict[str, Mapping[str, float]]:
        """BM25 over the same documents."""
        return {"BM25": scoring.bm25(self._split, self._candidates())}

    def notes(self) -> list[str]:
        """What the rows are, and how many documents are ranked."""
        return [*self._said, f"Scores are of {len(self._candidates()):,} documents."]

    def save(self, folder: Path) -> None:
        """As sentence-transformers does; a unified model with ``Unified.save``'s files."""
        self.model.save(folder, self._tokenizer, self._settings.passage_length)

    def _candidates(self) -> list[str]:
        return scoring.candidates(self._split, self._settings.candidates, self._seed)

    def _tokens(self, texts: Sequence[str], kind: str) -> dict[str, Any]:
        asked = kind == "question"
        most = self._settings.question_length if asked else self._settings.passage_length
        made = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return {name: made[name] for name in ("input_ids", "attention_mask")}
