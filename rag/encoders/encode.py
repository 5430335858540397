"""An opened encoder: sorted by length, batched by tokens, and shared by threads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.encoders.batches import Models, batches, check
from rag.errors import BackendFailed, InvalidInput

COMPILED_FROM = 10_000
"""Texts of one call from which on a model on CUDA is compiled first, which takes a minute."""
Kind = Literal["query", "document"]
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Encoder:
    """Texts to vectors; may be shared by threads, which take turns.

    name: what errors call it.
    kind: ``dense``; ``vocabulary`` where each dimension is a token; ``unified`` where a vector has
        both parts (DupMAE).
    dimensions: d, of a vector.
    similarity: ``cosine`` or ``dot``, how vectors are compared.
    hash: sha256 over weights, tokenizer and settings.
    parts: of ``unified``, how many of the dimensions are no token, and how many tokens a document
        keeps; else None.
    """

    def __init__(self, name: str, models: Sequence[Any], hash: str, *, tokens: int) -> None:
        """Hold a ``SentenceTransformer`` or ``SparseEncoder``; see ``load_encoder``.

        models: the same one on each device, at least one.
        tokens: the most of a batch, padding included.

        Raises:
            InvalidInput: its similarity is neither cosine nor dot.
        """
        from sentence_transformers import SparseEncoder

        self.name, self.hash = name, hash
        model = models[0]
        self._models = Models([model.eval() for model in models])
        self._tokens = tokens
        self.parts: tuple[int, int] | None = getattr(model[0], "parts", None)
        self.kind: Literal["dense", "vocabulary", "unified"] = "dense"
        if isinstance(model, SparseEncoder):
            self.kind = "vocabulary"
        elif self.parts is not None:
            self.kind = "unified"
        similarity = str(model.similarity_fn_name)
        if similarity not in ("cosine", "dot"):
            raise InvalidInput(f"{name} compares vectors by {similarity}; expected cosine or dot")
        self.similarity: Literal["cosine", "dot"] = "dot" if similarity == "dot" else "cosine"
        # A module of a user's own may report the width of its hidden layer: what comes out counts.
        self.dimensions = int(self._batch(model, ["a"], "document").shape[1])

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Any:
        """The vectors of ``texts``, in their order.

        The prompt that the model has for the ``kind`` stands before each text, texts are cut at
        the model's length, and vectors have the width that it sets. They are not normalised,
        unless the model does it.

        Args:
            texts: any number, also none.
            kind: ``query`` or ``document``.

        Returns:
            (n, dimensions) float32; a scipy CSR array of it where ``self.kind`` is not dense.

        Raises:
            InvalidInput: another kind, or a text that no tokenizer reads (an unpaired surrogate).
            BackendFailed: the model fails.
        """
        check(texts, kind)
        if len(texts) >= COMPILED_FROM:
            self._compile()

        def lengths(some: Sequence[str]) -> NDArray[np.int64]:
            with self._models.one() as model:
                return self._lengths(model, some, kind)

        def vectors(model: Any, places: NDArray[np.int64]) -> Any:
            return self._batch(model, [texts[at] for at in places.tolist()], kind)

        order = list(batches(texts, lengths, self._tokens))
        return self._joined(self._models.map(vectors, order), order)

    def tokenizer_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that dimensions of a vocabulary stand for."""
        tokenizer = self._models.all[0].tokenizer
        found: list[str] = tokenizer.convert_ids_to_tokens(list(map(int, ids)))
        return found

    def _compile(self) -> None:
        """Compile what stands on CUDA, once."""
        for model in self._models.all:
            body = getattr(model[0], "model", None)
            if model.device.type == "cuda" and body is not None and not hasattr(body, "compiled"):
                body.compile(dynamic=True)
                body.compiled = True

    def _joined(self, parts: list[Any], order: list[NDArray[np.int64]]) -> Any:
        if self.kind != "dense":
            from scipy import sparse

            if not parts:
                return sparse.csr_array((0, self.dimensions), dtype=np.float32)
            back = np.argsort(np.concatenate(order))
            return sparse.csr_array(sparse.vstack(parts, format="csr")[back])
        out = np.empty((sum(map(len, order)), self.dimensions), np.float32)
        for rows, part in zip(order, parts, strict=True):
            out[rows] = part
        return out

    def _lengths(self, model: Any, texts: Sequence[str], kind: Kind) -> NDArray[np.int64]:
        """How many tokens of each text the model reads, or where nothing says so, its letters."""
        tokenizer = getattr(model, "tokenizer", None)
        most = model.get_max_seq_length()
        if not callable(tokenizer) or most is None:
            return np.array([len(text) for text in texts], np.int64)
        name = next((name for name in _PROMPTS[kind] if name in model.prompts), None)
        prompt = model._resolve_prompt(None, name) or ""
        made = tokenizer([prompt + text for text in texts], truncation=True, max_length=most)
        return np.array([len(ids) for ids in made["input_ids"]], np.int64)

    def _batch(self, model: Any, texts: list[str], kind: Kind) -> Any:
        """The vectors of texts that the model reads at once; longest first."""
        import torch

        encode = model.encode_query if kind == "query" else model.encode_document
        given: dict[str, Any] = {"batch_size": len(texts), "show_progress_bar": False}
        on_cuda = model.device.type == "cuda"
        try:
            with torch.autocast("cuda", torch.bfloat16) if on_cuda else nullcontext():
                if self.kind == "vocabulary":
                    found = encode(texts, convert_to_sparse_tensor=True, save_to_cpu=True, **given)
                else:
                    found = encode(texts, convert_to_tensor=True, **given).float().cpu().numpy()
        except RuntimeError as error:  # out of memory, too
            raise BackendFailed(
                f"the encoder {self.name} failed on {len(texts)} texts: {error}"
            ) from error
        if self.kind == "dense":
            return found
        from scipy import sparse

        if self.kind == "unified":
            return sparse.csr_array(found)
        found = found.coalesce()
        rows, columns = found.indices().numpy()
        values = found.values().float().numpy()
        return sparse.csr_array((values, (rows, columns)), shape=tuple(found.shape))
