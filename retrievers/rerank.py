"""The stage ``rerank``: a ranking in the order of a model that reads question and passage."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rag.errors import BackendFailed, InvalidInput, MissingExtra
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from pathlib import Path

    from rag.batch import Batch
    from rag.ranking import Hit, Ranking
    from rag.retrievers.cross_encoder import Scorer

ROWS_AT_ONCE = 32
"""So many questions have their passages in memory, and are batched together."""


class Rerank(Stage, name="rerank"):
    """Order passages by a cross-encoder, which reads a question and a passage together.

    The passage is read as its title, a space and its text (as BEIR's reranker does); what a stage
    before has cut or rewritten is read as it left it. What is longer than the model reads is cut at
    the end. Scores are those of ``CrossEncoder.predict`` of sentence-transformers (extra
    ``models``); equal ones go by the order of the collection. A row without a ranking gets none.

    Only safetensors are read, and no code that a model brings. A name that is no path is the name
    of a model at Hugging Face, which is downloaded once; HF_HUB_OFFLINE=1 forbids that.
    """

    of: str = Field("documents", description="The ranking to order.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    model: str = Field(
        min_length=1,
        description="The cross-encoder: a folder, or a name at Hugging Face such as "
        "cross-encoder/ms-marco-MiniLM-L6-v2.",
    )
    top_k: int | None = Field(
        None, gt=0, description="The most passages that stay; default: all of them."
    )
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        description="cpu, mps, cuda or cuda:1; default: cuda where there is one, else cpu.",
    )
    batch_size: int = Field(32, gt=0, description="The most passages that are read at a time.")

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking, writes one."""
        return have.need("question").need(self.of, type="ranking").put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of ``model``: results of ``rag run`` hang on them."""
        from rag.models.place import files_of, place_of

        return files_of(place_of(self.model))

    def open(self, context: Context) -> Step:
        """Load the model, or share it with whoever has it open.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            NotFound: there is no such model.
            InvalidInput: it is no cross-encoder, its weights are pickled, or there is no such
                device.
            BackendFailed: it cannot be loaded.
        """
        if find_spec("sentence_transformers") is None:
            raise MissingExtra("models", "sentence_transformers")
        from rag.models.place import place_of

        place = place_of(self.model)
        scorer: Scorer = context.get(("rerank", place, self.device), lambda: self._load(place))

        def step(batch: Batch, run: Run) -> Batch:
            ranking: Ranking = batch[self.of]
            scores = ranking.scores.copy()
            for first in range(0, len(ranking), ROWS_AT_ONCE):
                rows = range(first, min(first + ROWS_AT_ONCE, len(ranking)))
                self._score(batch["question"], ranking, rows, scores, scorer, run)
            ordered = ranking.put(scores=scores).by_score()
            return batch.put(**{self.into: ordered.top(self.top_k) if self.top_k else ordered})

        return step

    def _load(self, place: Path | str) -> Scorer:
        from rag.models.place import folder_of
        from rag.retrievers.cross_encoder import Scorer

        if not isinstance(place, str) and not place.is_dir():
            raise InvalidInput(f"{self.model} is no cross-encoder but a GGUF file; name a folder")
        return Scorer.load(self.model, folder_of(place), device=self.device)

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
            read = [(questions[row], _passage(hit)) for hit in ranking[row]]
            if any(_broken(text) for pair in read for text in pair):
                run.fail(row, InvalidInput("the question or a passage has an unpaired surrogate"))
                continue
            start = int(ranking.offsets[row])
            places += [(row, start + rank) for rank in range(len(read))]
            pairs += read
        # Those of one batch are alike in length, so that little is padded; the longest come first,
        # so that what does not fit into memory shows at once.
        order = sorted(range(len(pairs)), key=lambda at: -sum(map(len, pairs[at])))
        for start in range(0, len(order), self.batch_size):
            some = [at for at in order[start : start + self.batch_size] if run.waits(places[at][0])]
            found = scorer.scores([pairs[at] for at in some])
            for at, score in zip(some, found.tolist(), strict=True):
                row, entry = places[at]
                if np.isnan(score):
                    run.fail(row, BackendFailed(f"{self.model} gives a passage no score but NaN"))
                scores[entry] = score


def _passage(hit: Hit) -> str:
    return f"{hit.title} {hit.text}".strip()


def _broken(text: str) -> bool:
    """Whether no tokenizer reads a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
