"""The stage ``rerank``: a ranking in the order of a model that reads question and passage."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from rag.errors import BackendFailed, InvalidInput, MissingExtra
from rag.retrievers.encoded import DEVICE, broken, opened
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rag.batch import Batch
    from rag.encoders import Encoder
    from rag.ranking import Hit, Ranking

ROWS_AT_ONCE = 32
"""So many questions have their passages in memory, and are batched together."""


class Rerank(Stage, name="rerank"):
    """Order passages by a cross-encoder, which reads a question and a passage together.

    With ``encoder`` in place of ``model`` they are ordered by the similarity of their vectors, as
    that encoder compares them (cosine or dot): passages that an index without a model found are
    read late, a few for each question (the parametric reranking of VDR's bag-of-tokens search).

    The passage is read as its title, a space (as in BEIR's reranker; VDR: ``[SEP]``) and its text;
    what a stage before has cut or rewritten is read as it left it. What is longer than the model
    reads is cut at the end. Scores of a cross-encoder are those of ``CrossEncoder.predict`` of
    sentence-transformers (extra ``models``); equal ones go by the order of the collection. A row
    without a ranking gets none.

    Only safetensors are read, and no code that a model brings. A name that is no path is the name
    of a model at Hugging Face, which is downloaded once; HF_HUB_OFFLINE=1 forbids that.
    """

    of: str = Field("documents", description="The ranking to order.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    model: str | None = Field(
        None,
        min_length=1,
        description="The cross-encoder: a folder, or a name at Hugging Face such as "
        "cross-encoder/ms-marco-MiniLM-L6-v2.",
    )
    encoder: str | None = Field(
        None,
        min_length=1,
        description="Instead of model: an encoder of texts, a folder, a name at Hugging Face, or "
        "minilm.",
    )
    top_k: int | None = Field(
        None, gt=0, description="The most passages that stay; default: all of them."
    )
    device: str | None = Field(
        None,
        pattern=DEVICE,
        description="cpu, mps, cuda or cuda:1, for an encoder openvino or cuda:all too; default: "
        "cuda where there is one, else cpu.",
    )
    batch_size: int = Field(
        32, gt=0, description="The most passages that a cross-encoder reads at a time."
    )

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.encoder is None):
            raise InvalidInput(
                "name either model (a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L6-v2) "
                "or encoder (such as minilm)"
            )
        if self.model is not None and self.device in ("openvino", "cuda:all"):
            raise InvalidInput(f"device {self.device}: a cross-encoder runs on cpu, mps or cuda")
        return self

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking, writes one."""
        return have.need("question").need(self.of, type="ranking").put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of the model: results of ``rag run`` hang on them."""
        if self.encoder is not None:
            from rag.encoders.load import folder_of_encoder

            return sorted(
                path for path in folder_of_encoder(self.encoder).rglob("*") if path.is_file()
            )
        from rag.models.place import files_of, place_of

        return files_of(place_of(str(self.model)))

    def open(self, context: Context) -> Step:
        """Load the model, or share it with whoever has it open.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            NotFound: there is no such model.
            InvalidInput: it is no such model, its weights are pickled, or there is no such device.
            BackendFailed: it cannot be loaded.
        """
        if find_spec("sentence_transformers") is None:
            raise MissingExtra("models", "sentence_transformers")
        scorer = self._encoder(context) if self.model is None else self._model(context, self.model)

        def step(batch: Batch, run: Run) -> Batch:
            ranking: Ranking = batch[self.of]
            scores = ranking.scores.copy()
            for first in range(0, len(ranking), ROWS_AT_ONCE):
                rows = range(first, min(first + ROWS_AT_ONCE, len(ranking)))
                self._score(batch["question"], ranking, rows, scores, scorer, run)
            ordered = ranking.put(scores=scores).by_score()
            return batch.put(**{self.into: ordered.top(self.top_k) if self.top_k else ordered})

        return step

    def _model(self, context: Context, model: str) -> Scorer:
        from rag.models.place import folder_of, place_of
        from rag.retrievers import cross_encoder

        place, device = place_of(model), None if self.device == "auto" else self.device
        if not isinstance(place, str) and not place.is_dir():
            raise InvalidInput(f"{model} is no cross-encoder but a GGUF file; name a folder")
        scorer: Scorer = context.get(
            ("rerank", place, device),
            lambda: cross_encoder.Scorer.load(model, folder_of(place, modules=True), device=device),
        )
        return scorer

    def _encoder(self, context: Context) -> Scorer:
        return _Encoded(opened(context, str(self.encoder), self.device or "auto"))

    def _score(
        self,
        questions: tuple[str, ...],
        ranking: Ranking,
        rows: range,
        scores: np.ndarray[Any, np.dtype[np.float32]],
        scorer: Scorer,
        run: Run,
    ) -> None:
        """Write the scores of the passages of some rows; those that nobody waits for stay."""
        pairs = list[tuple[str, str]]()
        places = list[tuple[int, int]]()  # (row, entry) of each pair
        for row in rows:
            if not run.waits(row):
                continue
            read = [(questions[row], _passage(hit, scorer.joint)) for hit in ranking[row]]
            if any(broken(text) for pair in read for text in pair):
                run.fail(row, InvalidInput("the question or a passage has an unpaired surrogate"))
                continue
            start = int(ranking.offsets[row])
            places += [(row, start + rank) for rank in range(len(read))]
            pairs += read
        # Those of one batch are alike in length, so that little is padded; the longest come first,
        # so that what does not fit into memory shows at once.
        order = sorted(range(len(pairs)), key=lambda at: -sum(map(len, pairs[at])))
        # An encoder batches by itself, and reads a passage of several questions once.
        size = self.batch_size if self.model else max(1, len(order))
        for start in range(0, len(order), size):
            some = [at for at in order[start : start + size] if run.waits(places[at][0])]
            found = scorer.scores([pairs[at] for at in some])
            for at, score in zip(some, found.tolist(), strict=True):
                row, entry = places[at]
                if np.isnan(score):
                    run.fail(
                        row, BackendFailed(f"{self.model or self.encoder} scores a passage NaN")
                    )
                scores[entry] = score


class Scorer(Protocol):
    """What gives each (question, passage) a score; threads share it.

    joint: what stands between title and text of a passage.
    """

    joint: str

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The scores of n pairs: (n,) float32."""


class _Encoded:
    """The similarity of vectors: dot products, of vectors of length 1 where it is the cosine."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.joint = encoder, getattr(encoder, "joint", " ")

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        if not pairs:
            return np.zeros(0, np.float32)
        left = self._vectors([question for question, _ in pairs], "query")
        right = self._vectors([passage for _, passage in pairs], "document")
        found = _summed(left * right)
        if self._encoder.similarity == "cosine":
            lengths = np.sqrt(_summed(left * left) * _summed(right * right))
            found = np.divide(found, lengths, out=np.zeros_like(found), where=lengths != 0)
        return found

    def _vectors(self, texts: list[str], kind: Literal["query", "document"]) -> Any:
        """The vector of each text; one that stands there several times is encoded once."""
        place = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        return self._encoder.encode(list(place), kind=kind)[[place[text] for text in texts]]


def _summed(products: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The sum of each row of an array, or of a sparse one."""
    return np.asarray(products.sum(axis=1), np.float32).reshape(-1)


def _passage(hit: Hit, joint: str) -> str:
    return f"{hit.title}{joint}{hit.text}" if hit.title else hit.text
