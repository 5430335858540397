"""From texts to batches: whole-word masks for the encoder, a mask of its own for each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag.encoders.dupmae.model import IGNORED
from rag.errors import InvalidInput

MOST_MASKED = 512
MOST_MASKS = 256
"""So many masks are drawn at most for the positions of one text, as in the published code."""


class Collator:
    """Batches of ``model.DupMAE`` from texts, or from their token ids without special ones.

    As the published code has it (the paper has the same rates): a text is cut to ``max_length`` - 2
    tokens and stands between [CLS] and [SEP]. The encoder's mask is a whole-word mask of
    ``encoder_rate``; of its tokens 80% become [MASK], 10% any token, 10% stay. For the decoder,
    min(length, 256) whole-word masks of ``decoder_rate`` are drawn, each position takes one of
    them, and hides itself too. The bag of a text gives each distinct token 1 / n, n = its number
    of tokens (Eq. 8 of the paper: 1).

    What is drawn hangs on torch's own generator (``torch.manual_seed``), which data loaders seed
    anew for each worker and epoch.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int = 512,
        encoder_rate: float = 0.3,
        decoder_rate: float = 0.5,
    ) -> None:
        """Take a WordPiece tokenizer of transformers, with [CLS], [SEP], [PAD] and [MASK].

        Raises:
            InvalidInput: the tokenizer lacks one of them, or a rate is not within 0 and 1.
        """
        special = ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id")
        for name in special:
            if getattr(tokenizer, name, None) is None:
                raise InvalidInput(f"the tokenizer has no {name}; pre-training needs a BERT's")
        for name, rate in (("encoder_rate", encoder_rate), ("decoder_rate", decoder_rate)):
            if not 0 < rate < 1:
                raise InvalidInput(f"{name} is {rate}, and must lie between 0 and 1")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.encoder_rate, self.decoder_rate = encoder_rate, decoder_rate
        self._cls, self._sep, self._pad, self._mask = (getattr(tokenizer, n) for n in special)
        self._size = len(tokenizer)
        pieces = tokenizer.convert_ids_to_tokens(range(self._size))
        self._goes_on = np.array([(piece or "").startswith("##") for piece in pieces])

    def __call__(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        """The batch of some texts: what ``DupMAE.forward`` takes, by name.

        Args:
            texts: B texts, or lists of ids, or mappings with ``input_ids``.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        rows = [self._ids(text) for text in texts]
        size = max(len(row) for row in rows) + 2
        shape = (len(rows), size)
        original = np.full(shape, self._pad, np.int64)
        corrupted, labels = original.copy(), np.full(shape, IGNORED, np.int64)
        decoder_labels, attention = labels.copy(), np.zeros(shape, np.int64)
        visible = np.zeros((len(rows), size, size), np.uint8)
        bag = np.zeros((len(rows), self._size), np.float32)
        for at, row in enumerate(rows):
            ids = np.array([self._cls, *row, self._sep], np.int64)
            length, words = len(ids), self.words(ids)
            masked = whole_word_mask(words, length, self.encoder_rate, rng)
            original[at, :length], attention[at, :length] = ids, 1
            corrupted[at, :length] = self._corrupt(ids, masked, rng)
            labels[at, :length][masked] = ids[masked]
            decoder_labels[at, 1 : length - 1] = ids[1:-1]
            visible[at, :length, :length] = position_masks(words, length, self.decoder_rate, rng)
            if row:
                bag[at, row] = 1 / len(row)
        arrays = {
            "input_ids": corrupted, "attention_mask": attention, "labels": labels,
            "original_ids": original, "visible": visible, "decoder_labels": decoder_labels,
            "bag": bag,
        }  # fmt: skip
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def words(self, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The positions of each word between the first and the last token, which are special."""
        starts = np.flatnonzero(~self._goes_on[ids[1:-1]]) + 1
        # A text may begin within a word, where it was cut: its first pieces are a word.
        if len(ids) > 2 and (not len(starts) or starts[0] != 1):
            starts = np.concatenate(([1], starts))
        return [w for w in np.split(np.arange(len(ids) - 1), starts)[1:] if len(w)]

    def _ids(self, text: Any) -> list[int]:
        if isinstance(text, str):
            cut = self.max_length - 2
            text = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=cut)
        ids = text if isinstance(text, list | tuple) else text["input_ids"]
        return [int(token) for token in ids][: self.max_length - 2]

    def _corrupt(
        self, ids: NDArray[np.int64], masked: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        draw = rng.random(len(ids))
        corrupted = np.where(masked & (draw < 0.8), self._mask, ids)
        other = rng.integers(self._size, size=len(ids))
        return np.where(masked & (draw >= 0.9), other, corrupted)


def whole_word_mask(
    words: Sequence[NDArray[np.int64]], length: int, rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A mask over ``length`` tokens that covers whole ``words`` (the positions of each).

    The rule of transformers 4.34, which the published code uses: words in random order, until
    min(512, max(1, round(length * rate))) tokens are covered; a word that would cover more is
    passed over, not cut. ``length`` counts special tokens.
    """
    quota = min(MOST_MASKED, max(1, round(length * rate)))
    mask = np.zeros(length, np.bool_)
    covered = 0
    for at in rng.permutation(len(words)).tolist():
        if covered >= quota:
            break
        if covered + len(words[at]) <= quota:
            mask[words[at]] = True
            covered += len(words[at])
    return mask


def position_masks(
    words: Sequence[NDArray[np.int64]], length: int, rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(length, length) bool: what the decoder sees at each position (a row).

    Column 0, the vector of the text, is seen in every row but its own.
    """
    count = min(length, MOST_MASKS)
    masks = np.stack([whole_word_mask(words, length, rate, rng) for _ in range(count)])
    hidden = masks[rng.integers(count, size=length)] | np.eye(length, dtype=np.bool_)
    return ~hidden
