"""A cross-encoder of sentence-transformers, loaded safely and shared by threads."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import BackendFailed, InvalidInput, NotFound
from rag.models.load import check_folder, device_of, quiet

HEADS = ("ForSequenceClassification", "ForCausalLM")
"""How the class of a model ends that gives a pair a score; ForCausalLM weighs "yes" and "no"."""


class Scorer:
    """Scores of pairs of texts; threads take turns, since tokenizers are not made for several."""

    joint = " "
    """What stands between title and text of a passage, as in BEIR's reranker."""

    def __init__(self, name: str, model: Any) -> None:
        """Hold a ``CrossEncoder`` that gives one score a pair; ``name`` is for errors."""
        self._name, self._model, self._lock = name, model, threading.Lock()

    @classmethod
    def load(cls, name: str, folder: Path, *, device: str | None = None) -> Scorer:
        """Load a folder: safetensors only, no code of the model's own, no network.

        Args:
            name: what errors call the model.
            folder: as sentence-transformers or transformers save it.
            device: as torch calls it; default: cuda where there is one, else cpu.

        Raises:
            NotFound: the folder holds no model.
            InvalidInput: it is no cross-encoder with one score, its weights are pickled, or there
                is no such device.
            BackendFailed: it cannot be loaded.
        """
        place = device_of(device)
        check_folder(name, folder)
        _check_head(name, folder)
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder

        try:
            with quiet():
                model = CrossEncoder(
                    str(folder),
                    device=place,
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise BackendFailed(
                f"cannot load the cross-encoder {name}: {str(error).strip()} (in {folder}; a model "
                "that brings code of its own is not loaded)"
            ) from error
        if model.num_labels != 1:
            raise InvalidInput(
                f"{name} gives {model.num_labels} scores a pair, and a passage is ranked by one; "
                "use a cross-encoder with one label"
            )
        return cls(name, model)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """The score of each pair, read as one batch: (n,) float32.

        Raises:
            BackendFailed: the model fails.
        """
        if not pairs:
            return np.zeros(0, np.float32)
        try:
            with self._lock:
                found = self._model.predict(
                    [list(pair) for pair in pairs], batch_size=len(pairs), show_progress_bar=False
                )
        except RuntimeError as error:  # out of memory, too
            raise BackendFailed(
                f"the cross-encoder {self._name} failed on {len(pairs)} passages: {error}; if "
                "memory ran out, make batch_size smaller"
            ) from error
        return np.asarray(found, np.float32)


def _check_head(name: str, folder: Path) -> None:
    """Refuse a model whose head is not trained: transformers would draw one at random."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        classes = list(config.get("architectures") or ["no class"])
    except (ValueError, AttributeError, TypeError) as error:
        raise NotFound(f"{name}: {folder / 'config.json'} is no configuration: {error}") from error
    if not str(classes[0]).endswith(HEADS):
        raise InvalidInput(
            f"{name} is no cross-encoder: its config.json says {classes[0]}, and expected is a "
            f"class that ends in {' or '.join(HEADS)}, such as that of "
            "cross-encoder/ms-marco-MiniLM-L6-v2"
        )
