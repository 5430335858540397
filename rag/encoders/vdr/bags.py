"""The bag of tokens of a text: which tokens stand in it. It needs a tokenizer and no model."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import BackendFailed, InvalidInput, MissingExtra, NotFound

AT_ONCE = 1024
JOINT = " [SEP] "
"""What stands between title and text of a passage, as in the published code."""
SAMPLES = ("The quick brown foxes weren't jumping over 12,345 lazy dogs.", "naïve café [SEP] 東京")


class Bags:
    """Texts to binary vectors over a tokenizer's vocabulary.

    dimensions: V, the size of the vocabulary.
    hash: sha256 over the vocabulary, the ids of two samples, shift and longest text.
    joint: what stands between title and text.
    """

    kind = "vocabulary"
    similarity = "dot"
    joint = JOINT

    def __init__(self, tokenizer: Any, *, dimensions: int, shift: int, max_len: int) -> None:
        """Hold a tokenizer of transformers.

        Columns below ``shift`` are 0, and of a text count the first ``max_len`` tokens, special
        ones included, as its encoder reads them.
        """
        self.dimensions, self._tokenizer = dimensions, tokenizer
        self._shift, self._max_len = shift, max_len
        what = [sorted(tokenizer.get_vocab().items()), self._ids(list(SAMPLES)), shift, max_len]
        self.hash = hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path) -> Bags:
        """The bags of a VDR model's folder; its weights are not read.

        Raises:
            MissingExtra: transformers is not installed.
            NotFound: the folder holds no model.
            InvalidInput: it holds no VDR model.
        """
        if find_spec("transformers") is None:
            raise MissingExtra("models", "transformers")
        from rag.models.place import folder_of, place_of

        return _loaded(folder_of(place_of(str(folder))))

    def encode(self, texts: Sequence[str], kind: str = "document") -> Any:
        """The bags of texts as a scipy CSR matrix, (n, V) float32 of ones."""
        from scipy.sparse import csr_matrix

        rows: list[Any] = []
        for start in range(0, len(texts), AT_ONCE):
            for ids in self._ids(list(texts[start : start + AT_ONCE])):
                own = np.unique(np.asarray(ids, np.int64))
                rows.append(own[(own >= self._shift) & (own < self.dimensions)])
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        columns = np.concatenate([np.zeros(0, np.int64), *rows])
        ones = np.ones(len(columns), np.float32)
        return csr_matrix((ones, columns, offsets), (len(rows), self.dimensions))

    def _ids(self, texts: list[str]) -> Any:
        if not texts:
            return []
        return self._tokenizer(texts, truncation=True, max_length=self._max_len)["input_ids"]


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path) -> Bags:
    settings = tower_settings(folder)["encoder_p"]
    tokenizer = tokenizer_of(folder, settings)
    return Bags(
        tokenizer,
        dimensions=settings["vocab_size"] or len(tokenizer),
        shift=settings["shift_vocab_num"],
        max_len=settings["max_len"],
    )


def is_vdr(folder: Path) -> bool:
    """Whether a folder holds a VDR model: a published one, or one that transformers saved."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and (
        config.get("model_type") == "vdr" or bool({"encoder_q", "base_model_id"} & config.keys())
    )


def tower_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """For ``encoder_q`` and ``encoder_p``: model_id, shift_vocab_num, topk, max_len, vocab_size.

    Read from ``config.json`` in one of three forms: the published one with a block for each tower,
    the older published one with a block for both, and that of a tower saved by transformers.

    Raises:
        NotFound: there is no config.json.
        InvalidInput: it is that of another model.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{folder} holds no model (no config.json)") from None
    except ValueError as error:
        raise InvalidInput(f"{file}: is no JSON: {error}") from None
    if not is_vdr(folder):
        raise InvalidInput(
            f"{file}: no VDR model: expected model_type 'vdr', blocks encoder_q and encoder_p, or "
            "base_model_id"
        )
    most = _most_active(folder / "config_sentence_transformers.json")
    found = {}
    for tower, longest in (("encoder_q", 128), ("encoder_p", 256)):
        old = "base_model_id" in config
        own = config.get(tower) or config.get("encoder_q") or config
        if own.get("norm") or own.get("pooling", "max") != "max":
            raise InvalidInput(f"{file}: {tower} has norm or another pooling than max; no text VDR")
        found[tower] = {
            "model_id": own.get("model_id") or own.get("base_model_id"),
            "shift_vocab_num": own.get("shift_vocab_num", 1000 if old else 999),
            "topk": own.get("topk", 768) if most is None else most,
            "max_len": own.get("max_len") or own.get("max_seq_len") or longest,
            "vocab_size": own.get("vocab_size"),
        }
    return found


def _most_active(file: Path) -> int | None:
    """The terms that a model keeps which sentence-transformers saved; None: it does not say."""
    try:
        found = json.loads(file.read_text("utf-8")).get("max_active_dims")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def tokenizer_of(folder: Path, settings: dict[str, Any]) -> Any:
    """The tokenizer that lies in the folder, or else that of the model it names.

    Raises:
        BackendFailed: neither can be read.
    """
    from transformers import AutoTokenizer

    from rag.models.load import quiet

    own = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    place = str(folder) if own else settings["model_id"]
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                place, local_files_only=own, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendFailed(
            f"cannot load the tokenizer {place} of the model in {folder}: "
            f"{str(error).strip().splitlines()[0]}; put its tokenizer.json or vocab.txt there"
        ) from error
