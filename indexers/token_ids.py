"""The tokenizer of a model, as an n-gram index uses it: passages to token ids, and its identity."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import BackendFailed, InvalidInput, MissingExtra
from rag.indexers.layout import Layout, family_of

SAMPLES = (
    "The quick brown foxes weren't jumping over 12,345 lazy dogs' beds.",
    "naïve café, Straße, İstanbul, ΟΔΥΣΣΕΥΣ: 東京大学 и Москва_1 🙂",
    "  two  spaces\n\tand a tab; e-mail@example.org, 3.14 × 10⁶ €",
)
"""Texts whose token ids are part of a fingerprint: two tokenizers may have one vocabulary."""

_PLAIN: dict[str, Any] = {
    "add_special_tokens": False,
    "split_special_tokens": True,  # a passage that spells </s> holds these letters, not the token
    "truncation": False,
    "verbose": False,
}


class TokenIds:
    """A tokenizer of transformers and the layout of passages; threads take turns at it.

    name: the model, as it was asked for.
    layout: how a passage stands in its tokens (``rag.indexers.layout``).
    fingerprint: sha256 over the vocabulary, the ids of ``SAMPLES`` and the layout. Equal ones give
        equal tokens, and an n-gram index can be searched by a model whose tokenizer has its own.
    """

    def __init__(self, name: str, tokenizer: Any, family: str) -> None:
        """Hold a tokenizer for a model of a ``family`` (``rag.indexers.layout.family_of``)."""
        self.name, self._tokenizer = name, tokenizer
        self._lock = threading.Lock()
        self.layout = Layout.of(family, self.encode)
        self.fingerprint = fingerprint(tokenizer, self.layout)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens around or in them."""
        return ids_of(self._tokenizer, self._lock, texts)

    def rows(self, titles: Sequence[str], texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each passage, (its length,) int32."""
        return self.layout.rows(self.encode, titles, texts)

    def places(self, parts: Sequence[str]) -> list[list[tuple[int, int]]] | None:
        """What each token of a passage's title or text stands for, (start, end) in code points.

        None where the tokenizer is written in Python and does not say.
        """
        if not self._tokenizer.is_fast:
            return None
        lead = self.layout.lead
        with self._lock:
            found = self._tokenizer(
                [lead + part if part else "" for part in parts],
                return_offsets_mapping=True,
                **_PLAIN,
            )["offset_mapping"]
        shift = len(lead)
        return [[(max(0, a - shift), max(0, b - shift)) for a, b in part] for part in found]


def ids_of(tokenizer: Any, lock: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of texts, never special ones; one thread at a time holds ``lock``."""
    if not texts:
        return []
    with lock:  # a fast tokenizer refuses a second thread while it is being set
        found: list[list[int]] = tokenizer(texts, **_PLAIN)["input_ids"]
    return found


def fingerprint(tokenizer: Any, layout: Layout) -> str:
    """What ``TokenIds.fingerprint`` says, 64 hexadecimal digits."""
    samples = ids_of(tokenizer, threading.Lock(), list(SAMPLES))
    what = [sorted(tokenizer.get_vocab().items()), samples, vars(layout)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def load(model: str) -> TokenIds:
    """The tokenizer of a model: a name at Hugging Face, a folder, a .gguf file or ``smollm2``.

    Only the tokenizer is read, but a model is downloaded, or its GGUF file converted, as a whole.

    Raises:
        MissingExtra: transformers, or what reads GGUF files, is not installed.
        NotFound: there is no such model.
        InvalidInput: its tokenizer has no token that may end a title.
        BackendFailed: transformers cannot load it.
    """
    if find_spec("transformers") is None:
        raise MissingExtra("models", "transformers")
    from rag.models.place import folder_of, place_of

    return _loaded(model, folder_of(place_of(model)))


@functools.lru_cache(maxsize=4)
def _loaded(model: str, folder: Path) -> TokenIds:
    from transformers import AutoConfig, AutoTokenizer

    from rag.models.load import quiet

    only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, **only)
            tokenizer = AutoTokenizer.from_pretrained(folder, **only)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise BackendFailed(
            f"cannot load the tokenizer of {model}: {str(error).strip()} (in {folder})"
        ) from error
    if not len(tokenizer):
        raise InvalidInput(f"{model}: its tokenizer has no tokens ({folder}); use another model")
    family = family_of(config.model_type, two_sided=bool(config.is_encoder_decoder))
    return TokenIds(model, tokenizer, family)
