"""How a passage's title and text stand in the tokens of an n-gram index.

The index is built from these tokens and a generator is constrained by them, so both sides read
them here: what ends a title, and whether a word at the beginning needs a space before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput

Encode = Callable[[list[str]], list[list[int]]]
"""Texts to token ids, without special tokens before or after them."""

TITLE_ENDS = {"bart": " @@", "t5": "</s>", "causal": "\n"}
"""The text of the token that ends a title, for each family of models.

BART's is that of the published SEAL models. T5 stands for every other sequence-to-sequence model,
which ends what it writes with its end token. A causal model ends a title with its line.
"""


def family_of(model_type: str, *, two_sided: bool) -> str:
    """``bart``, ``t5`` or ``causal``, by ``model_type`` and ``is_encoder_decoder`` of a config."""
    if not two_sided:
        return "causal"
    return "bart" if model_type == "bart" else "t5"


@dataclass(frozen=True)
class Layout:
    """The tokens of a passage: those of its title, ``title_end``, those of its text.

    Title and text are tokenised apart, each with ``lead`` before it, so that no token spans both
    and every passage has ``title_end`` once more than its own texts have it. A passage without a
    title begins with ``title_end``.

    family: a name in ``TITLE_ENDS``.
    lead: a space where the tokenizer tells a word from the same letters within one by the space
        before it (BART, GPT-2), nothing where it marks the beginning itself (sentencepiece).
    title_end: the token id.
    """

    family: str
    lead: str
    title_end: int

    @classmethod
    def of(cls, family: str, encode: Encode) -> Layout:
        """The layout for the models of a ``family`` with the tokenizer that ``encode`` uses.

        Raises:
            InvalidInput: there is no such family, or no single token ends a title.
        """
        if family not in TITLE_ENDS:
            raise InvalidInput(f"family {family!r} of models: expected {', '.join(TITLE_ENDS)}")
        mark = TITLE_ENDS[family]
        ids, one, two = encode([mark, "year", "the year"])
        # A sentencepiece model that knows no line break writes its byte after a word's beginning.
        if len(ids) != 1 and not (mark == "\n" and len(ids) == 2):
            raise InvalidInput(
                f"the tokenizer has no single token for {mark!r}, which ends a title for models of "
                f"the family {family}: it gives {ids}; add that token to the tokenizer and the "
                "model, or use another model"
            )
        marked = len(one) < len(two) and two[-len(one) :] == one
        return cls(family, "" if marked else " ", ids[-1])

    def rows(
        self, encode: Encode, titles: Sequence[str], texts: Sequence[str]
    ) -> list[NDArray[np.int32]]:
        """The tokens of each passage, (its length,) int32."""
        parts = [self.lead + part if part else "" for part in (*titles, *texts)]
        ids = encode(parts)
        pairs = zip(ids[: len(titles)], ids[len(titles) :], strict=True)
        return [np.array([*title, self.title_end, *text], np.int32) for title, text in pairs]
