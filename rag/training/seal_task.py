"""The objective ``seal``, opened: its model, its rows, its batches, its result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.errors import InvalidInput, MissingExtra
from rag.retrievers.seal.model import SealModel
from rag.training.objective import Scores, Task
from rag.training.seal_batch import (
    Target,
    causal_batch,
    causal_logits,
    two_sided_batch,
    two_sided_logits,
    weighted_loss,
)
from rag.training.seal_spans import chances, drawn, overlaps, spans

if TYPE_CHECKING:
    from rag.training.data import Split
    from rag.training.seal import Seal

SPANS_ALONE = 3
"""Spans of a passage that is learned without a question, beside its title once, as published."""


class SealTask(Task):
    """What is learned from the training side.

    A row is (question's id, question, its document's id), one for each document judged relevant.
    """

    def __init__(self, settings: Seal, name: str, split: Split, seed: int) -> None:
        """Load the model and check that the questions fit into it.

        Raises:
            MissingExtra, NotFound, InvalidInput, BackendFailed: as ``SealModel.load``; InvalidInput
                also where no question has a passage with a text, or none fits into the context.
        """
        from rag.models.load import parts
        from rag.models.place import folder_of, place_of

        self._settings, self._split, self._name = settings, split, name
        network, self._tokenizer = parts(
            name, folder_of(place_of(name)), dtype="float32", device=None
        )
        self._seal = SealModel(name, network, self._tokenizer)
        self._two_sided = bool(network.config.is_encoder_decoder)
        if not (self._two_sided or self._seal.packs):
            raise InvalidInput(
                f"{name}: a causal model must take positions and a mask of four dimensions, so "
                "that spans share their prompt, and this one does not; use another model"
            )
        self._lora: Any = None
        if settings.lora is not None:
            if find_spec("peft") is None:
                raise MissingExtra("train", "peft")
            from peft import LoraConfig, get_peft_model

            how = LoraConfig(
                r=settings.lora.rank,
                lora_alpha=settings.lora.alpha,
                lora_dropout=settings.lora.dropout,
                target_modules="all-linear",
            )
            with warnings.catch_warnings():  # peft asks by a name that transformers gives up
                warnings.simplefilter("ignore", FutureWarning)
                self._lora = get_peft_model(network, how)
        self.model = network
        self._long = 0
        self.rows = self._rows()
        self._passages = [n for n, d in split.train.documents.items() if d.text.strip()]
        self._chances: dict[tuple[str, str], Any] = {}
        self._asked: Any = None

    def _rows(self) -> list[tuple[str, str, str]]:
        side = self._split.train
        every = [(q, text, d) for q, text in side.questions.items() for d in side.positives(q)]
        rows = []
        for question, text, document in every:
            if not side.documents[document].text.strip():
                continue
            try:
                self._seal.check(self._seal.prompts(text, titles=True), 4 * self._settings.words)
            except InvalidInput:
                self._long += 1
                continue
            rows.append((question, text, document))
        if not rows:
            why = "none has a passage with a text"
            if self._long:
                why = f"{self._long} do not fit into the model's context"
            raise InvalidInput(
                f"seal: there is nothing to learn from: of {len(side.questions)} questions {why}"
            )
        return rows

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """One batch: a group of prompts and targets for each row, and for passages without one."""
        groups = [self._group(question, text, name, draw) for question, text, name in rows]
        for _ in range(self._settings.unsupervised):
            name = self._passages[int(draw.integers(len(self._passages)))]
            groups.append(self._alone(name, draw))
        if self._two_sided:
            config = self.model.config
            start = self.model.generation_config.decoder_start_token_id
            return two_sided_batch(
                groups,
                pad=config.pad_token_id or 0,
                start=config.decoder_start_token_id if start is None else start,
            )
        return causal_batch(groups)

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """Cross-entropy of the n-grams' tokens; the prompts' own are not learned."""
        logits = two_sided_logits if self._two_sided else causal_logits
        return weighted_loss(logits(model, batch), batch, self._settings.smoothing)

    def _group(
        self, question: str, text: str, name: str, draw: np.random.Generator
    ) -> tuple[list[list[int]], list[Target]]:
        document, how = self._split.train.documents[name], self._settings
        key = (question, name)
        if key not in self._chances:
            self._chances[key] = chances(overlaps(text, document.text, how.words), how.temperature)
        chosen = drawn(spans(document.text, how.words), self._chances[key], how.spans, draw)
        return self._seal.prompts(text, titles=True), self._targets(
            chosen, document.title, how.titles
        )

    def _alone(self, name: str, draw: np.random.Generator) -> tuple[list[list[int]], list[Target]]:
        """A passage without a question: a span of it stands in its place, behind another mark."""
        document, how = self._split.train.documents[name], self._settings
        every = spans(document.text, how.words)
        given, *_ = drawn(every, None, 1, draw)
        chosen = drawn(every, None, SPANS_ALONE, draw)
        prompts = self._seal.family.prompts(given)
        if self._two_sided:
            marked = [f"{prompt} || p" for prompt in prompts]
        else:
            marked = [prompt.replace("Question:", "Excerpt:", 1) for prompt in prompts]
        plain = {"split_special_tokens": True, "verbose": False}  # no passage ends a sequence
        ids = self._tokenizer(marked, add_special_tokens=True, **plain)["input_ids"]
        return ids, self._targets(chosen, document.title, min(1, how.titles))

    def _targets(self, chosen: dict[str, int], title: str, titles: int) -> list[Target]:
        layout, titled = self._seal.layout, titles if title.strip() else 0
        texts = [layout.lead + text for text in chosen] + ([layout.lead + title] if titled else [])
        ids = self._seal.encode(texts)
        end = [self._tokenizer.eos_token_id] if self._two_sided else []
        found = [Target(0, [*its, *end], n) for its, n in zip(ids, chosen.values(), strict=False)]
        if titled:
            last = [layout.title_end]
            found.append(Target(1, [*ids[-1], *last, *(end if end != last else [])], titled))
        return found

    def score(self) -> Scores:
        """nDCG@10 of the held-back questions, by kinds of keys and weights."""
        from rag.training.seal_score import Asked

        if not self._split.held.questions:
            return {}
        self._asked = self._asked or Asked(self._split, self._name)
        model = SealModel(self._name, self.model, self._tokenizer)
        found: Scores = self._asked.scores(model, self._settings.beam)
        return found

    def references(self) -> dict[str, Any]:
        """BM25, and the question's spans weighted by their rarity squared, without a model."""
        from rag.training.seal_score import Asked

        if not self._split.held.questions:
            return {}
        self._asked = self._asked or Asked(self._split, self._name)
        found: dict[str, Any] = self._asked.references(self._seal)
        return found

    def notes(self) -> list[str]:
        """What was left out."""
        long = f"{self._long} rows left out: the question does not fit into the context"
        return [long] if self._long else []

    def save(self, folder: Path) -> None:
        """A folder of transformers; low-rank matrices are merged into the model's own."""
        if self._lora is not None:
            self.model = self._lora.merge_and_unload()
            self._lora = None
        self.model.config.use_cache = True
        self.model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
