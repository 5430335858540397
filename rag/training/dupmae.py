"""The objective ``dupmae``: pre-training of a BERT for retrieval on plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from rag.errors import InvalidInput
from rag.training.objective import Objective, Scores, Task

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Document, Split

LOSSES = ("loss", "mlm loss", "decoder loss", "bow loss")


class DupMAE(Objective, name="dupmae"):
    """Pre-train any BERT by duplex masked auto-encoding (``rag.encoders.dupmae``).

    The text of each document, title first, is packed into blocks of whole sentences until
    ``max_length`` tokens are reached, as the published code does; a block is a row, cut there.
    Masks, losses and their weights are those of the published code (``masks.Collator``,
    ``model.DupMAE``); the paper's own bag-of-words weight is 1.

    A BERT without a head for masked tokens (all-MiniLM-L6-v2) begins with one drawn at random.
    Saved is the encoder with its head, a ``BertForMaskedLM``, as RetroMAE publishes its models: to
    be fine-tuned by the objective ``bi_encoder``. ``load_encoder`` opens it as a SPLADE encoder.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"documents"})

    max_length: int = Field(512, gt=8, description="The most tokens of a block.")
    encoder_rate: float = Field(0.3, gt=0, lt=1, description="Tokens masked for the encoder.")
    decoder_rate: float = Field(0.5, gt=0, lt=1, description="Tokens hidden from the decoder.")
    bow_weight: float = Field(0.1, ge=0, description="What the bag-of-words loss counts.")

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the model and pack the documents.

        Raises:
            NotFound, InvalidInput, BackendFailed: the model cannot be used, or it has no text.
        """
        from transformers import AutoTokenizer

        from rag.encoders.dupmae import Collator, warm_start
        from rag.encoders.load import folder_of_encoder
        from rag.models.load import quiet

        folder = folder_of_encoder(model)
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        duplex = warm_start(folder, bow_weight=self.bow_weight)
        most = int(duplex.encoder.config.max_position_embeddings)
        if self.max_length > most:
            raise InvalidInput(f"max_length {self.max_length}: {model} reads {most} tokens at most")
        collator = Collator(
            tokenizer,
            max_length=self.max_length,
            encoder_rate=self.encoder_rate,
            decoder_rate=self.decoder_rate,
        )
        return DupMAETask(duplex, collator, split, self.max_length - 2, seed)


def blocks(
    documents: Mapping[str, Document], tokenizer: Any, length: int
) -> list[tuple[str, list[int]]]:
    """Whole sentences of each document, packed until ``length`` tokens are there; cut to it.

    Returns:
        Name (the document's id and the number of the block) and token ids without special ones.
    """
    from rag.sources.sentences import sentence_spans

    found: list[tuple[str, list[int]]] = []
    for name, document in documents.items():
        text = document.text
        sentences = [document.title] if document.title else []
        sentences += [text[a:b] for a, b in sentence_spans(text)]
        if not sentences:
            continue
        packed: list[list[int]] = [[]]
        for ids in tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"]:
            if len(packed[-1]) >= length:
                packed.append([])
            packed[-1] += ids
        found += [(f"{name}#{n}", ids[:length]) for n, ids in enumerate(packed) if ids]
    return found


class DupMAETask(Task):
    """An opened objective ``dupmae``."""

    def __init__(self, model: Any, collator: Any, split: Split, length: int, seed: int) -> None:
        """Hold the duplex model, and pack both sides."""
        self.model, self._collator, self._seed = model, collator, seed
        self.rows = blocks(split.train.documents, collator.tokenizer, length)
        self._held = blocks(split.held.documents, collator.tokenizer, length)

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """A batch with masks drawn for it."""
        batch: dict[str, Any] = self._collator([ids for _, ids in rows])
        return batch

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """Decoder, bag of words and masked tokens together."""
        return model(**batch)["loss"]

    def score(self) -> Scores:
        """The losses of each held-back block, whose masks are the same before and after."""
        import torch

        self.model.eval()
        device = next(self.model.parameters()).device
        found: dict[str, dict[str, float]] = {name: {} for name in LOSSES}
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for name, ids in self._held:
                batch = {key: value.to(device) for key, value in self._collator([ids]).items()}
                losses = self.model(**batch)
                for measure in LOSSES:
                    found[measure][name] = float(losses[measure.split()[0]])
        return found

    def notes(self) -> list[str]:
        """How much is read."""
        tokens = sum(len(ids) for _, ids in self.rows)
        learned = f"{len(self.rows):,} blocks of {tokens:,} tokens to learn from"
        return [f"{learned}, {len(self._held):,} held back, with the same masks before and after."]

    def save(self, folder: Path) -> None:
        """The encoder with its head, and the tokenizer; no decoder, as published."""
        from rag.models.load import quiet

        with quiet():
            self.model.save_encoder(folder)
        self._collator.tokenizer.save_pretrained(folder)
