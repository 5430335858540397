"""An opened encoder: sorted by length, batched by tokens, and shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.errors import BackendFailed, InvalidInput

TOKENS_AT_ONCE = 4096
"""Most tokens of a batch, padding included."""
TEXTS_AT_ONCE = 8192
"""Texts that are tokenised and sorted at a time: what is held besides texts and vectors."""
Kind = Literal["query", "document"]
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Encoder:
    """Texts to vectors; may be shared by threads, which take turns.

    name: what errors call it.
    kind: ``dense``, or ``vocabulary`` where each dimension is a token.
    dimensions: d, of a vector.
    similarity: ``cosine`` or ``dot``, how vectors are compared.
    hash: sha256 over weights, tokenizer and settings.
    """

    def __init__(self, name: str, model: Any, hash: str) -> None:
        """Hold a ``SentenceTransformer`` or ``SparseEncoder``; see ``load_encoder``.

        Raises:
            InvalidInput: its similarity is neither cosine nor dot.
        """
        from sentence_transformers import SparseEncoder

        self.name, self.hash = name, hash
        self._model, self._lock = model.eval(), threading.Lock()
        sparse = isinstance(model, SparseEncoder)
        self.kind: Literal["dense", "vocabulary"] = "vocabulary" if sparse else "dense"
        similarity = str(model.similarity_fn_name)
        if similarity not in ("cosine", "dot"):
            raise InvalidInput(f"{name} compares vectors by {similarity}; expected cosine or dot")
        self.similarity: Literal["cosine", "dot"] = "dot" if similarity == "dot" else "cosine"
        # A module of a user's own may report the width of its hidden layer: what comes out counts.
        self.dimensions = int(self._batch(["a"], "document").shape[1])

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Any:
        """The vectors of ``texts``, in their order.

        The prompt that the model has for the ``kind`` stands before each text, texts are cut at
        the model's length, and vectors have the width that it sets. They are not normalised,
        unless the model does it.

        Args:
            texts: any number, also none.
            kind: ``query`` or ``document``.

        Returns:
            (n, dimensions) float32; a scipy CSR array of it where ``self.kind`` is vocabulary.

        Raises:
            InvalidInput: another kind, or a text that no tokenizer reads (an unpaired surrogate).
            BackendFailed: the model fails.
        """
        if kind not in _PROMPTS:
            raise InvalidInput(f"kind {kind!r}: expected 'query' or 'document'")
        for number, text in enumerate(texts):
            if not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise InvalidInput(f"text {number} has an unpaired surrogate") from None
        parts: list[Any] = []
        order: list[NDArray[np.int64]] = []
        with self._lock:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                some = texts[start : start + TEXTS_AT_ONCE]
                for batch in _batches(self._lengths(some, kind)):
                    parts.append(self._batch([some[i] for i in batch.tolist()], kind))
                    order.append(batch + start)
        return self._joined(parts, order)

    def tokenizer_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that dimensions of a vocabulary stand for."""
        found: list[str] = self._model.tokenizer.convert_ids_to_tokens(list(map(int, ids)))
        return found

    def _joined(self, parts: list[Any], order: list[NDArray[np.int64]]) -> Any:
        if self.kind == "vocabulary":
            from scipy import sparse

            if not parts:
                return sparse.csr_array((0, self.dimensions), dtype=np.float32)
            back = np.argsort(np.concatenate(order))
            return sparse.csr_array(sparse.vstack(parts, format="csr")[back])
        out = np.empty((sum(map(len, order)), self.dimensions), np.float32)
        for rows, part in zip(order, parts, strict=True):
            out[rows] = part
        return out

    def _lengths(self, texts: Sequence[str], kind: Kind) -> NDArray[np.int64]:
        """How many tokens of each text the model reads, or where nothing says so, its letters."""
        tokenizer = getattr(self._model, "tokenizer", None)
        most = self._model.get_max_seq_length()
        if not callable(tokenizer) or most is None:
            return np.array([len(text) for text in texts], np.int64)
        prompt = self._prompt(kind) or ""
        made = tokenizer([prompt + text for text in texts], truncation=True, max_length=most)
        return np.array([len(ids) for ids in made["input_ids"]], np.int64)

    def _prompt(self, kind: Kind) -> str | None:
        prompts = self._model.prompts
        name = next((name for name in _PROMPTS[kind] if name in prompts), None)
        found: str | None = self._model._resolve_prompt(None, name)
        return found

    def _batch(self, texts: list[str], kind: Kind) -> Any:
        """The vectors of texts that the model reads at once; longest first."""
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        given: dict[str, Any] = {"batch_size": len(texts), "show_progress_bar": False}
        try:
            if self.kind == "dense":
                return encode(texts, convert_to_numpy=True, **given).astype(np.float32, copy=False)
            found = encode(texts, convert_to_sparse_tensor=True, save_to_cpu=True, **given)
        except RuntimeError as error:  # out of memory, too
            raise BackendFailed(
                f"the encoder {self.name} failed on {len(texts)} texts: {error}"
            ) from error
        from scipy import sparse

        found = found.coalesce()
        rows, columns = found.indices().numpy()
        values = found.values().float().numpy()
        return sparse.csr_array((values, (rows, columns)), shape=tuple(found.shape))


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Places of the texts of each batch, by falling length; a text too long is one by itself.

    The longest come first, so that what does not fit into memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        fits = max(1, TOKENS_AT_ONCE // max(int(lengths[order[start]]), 1))
        yield order[start : start + fits]
        start += fits
