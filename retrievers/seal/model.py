"""A model that writes n-grams: loaded by name or folder, its prompts, its vocabulary."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from rag.errors import InvalidInput, MissingExtra
from rag.indexers.layout import Layout, family_of
from rag.indexers.token_ids import fingerprint
from rag.retrievers.seal.family import FAMILIES

if TYPE_CHECKING:
    from rag.retrievers.seal.forward import Hypotheses

REMEMBERED = 200_000
"""The most n-grams whose log-probability without a question is remembered."""


class SealModel:
    """A loaded causal or sequence-to-sequence model with its tokenizer; threads take turns at it.

    name: as it was asked for; errors say it.
    family: its prompts (``rag.retrievers.seal.family``).
    layout: how it reads passages; an index for it was built with the same.
    fingerprint: of its tokenizer; an index for it has the same (``rag.indexers.token_ids``).
    vocabulary: V, the width of its distributions.
    packs: whether a row of its batch can hold many hypotheses (``rag.retrievers.seal.packed``).
    lock: held by whoever runs the model.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        """Hold a ``model`` of transformers, ready to run, and its tokenizer.

        Raises:
            InvalidInput: its tokenizer has no token that may end a title.
        """
        self.name, self._model, self._tokenizer = name, model, tokenizer
        self._two_sided = bool(model.config.is_encoder_decoder)
        self._tokenizing, self.lock = threading.Lock(), threading.RLock()
        family = family_of(model.config.model_type, two_sided=self._two_sided)
        self.family = FAMILIES[family]
        self.layout = Layout.of(family, self.encode)
        self.fingerprint = fingerprint(tokenizer, self.layout)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.packs = not self._two_sided and _packs(model)
        # Scores without a question, by the prompt's kind (0 text, 1 title) and the n-gram.
        self.remembered: OrderedDict[tuple[int, tuple[int, ...]], float] = OrderedDict()
        self._without: dict[tuple[tuple[int, ...], ...], Hypotheses] = {}

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str | None = None,
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        revision: str | None = None,
    ) -> SealModel:
        """Load a model of Hugging Face, a folder, a .gguf file or the packaged ``smollm2``.

        Nothing is downloaded that is here; HF_HUB_OFFLINE=1 forbids the rest. ``device`` None is
        cuda where there is one, else cpu; ``dtype`` auto is as it is stored, on a cpu float32.

        Raises:
            MissingExtra: torch or transformers, or what reads GGUF files, is not installed.
            NotFound: there is no such model.
            InvalidInput: its weights are pickled, it is a checkpoint of fairseq, there is no such
                device, or its tokenizer has no token that may end a title.
            BackendFailed: it cannot be loaded, or it is no model that writes text.
        """
        for module in ("torch", "transformers"):
            if find_spec(module) is None:
                raise MissingExtra("models", module)
        from rag.models.load import parts

        if name.endswith(".pt"):
            raise InvalidInput(
                f"model {name!r} is a checkpoint of fairseq; make a folder of it once: "
                "rag.retrievers.seal.fairseq.convert(checkpoint, folder_of_bart_large, new_folder)"
            )
        from rag.models.place import folder_of, place_of

        folder = folder_of(place_of(name, revision), revision)
        model, tokenizer = parts(name, folder, dtype=dtype, device=device)
        if dtype == "auto" and model.device.type == "cpu":
            model = model.float()
        return cls(name, model, tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens around or in them."""
        return self._ids(texts, special=False)

    def decode(self, ngrams: Sequence[Sequence[int]]) -> list[str]:
        """The texts of lists of token ids, as they stand: with spaces and special tokens."""
        with self._tokenizing:
            return [
                self._tokenizer.decode(
                    list(ngram), skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                for ngram in ngrams
            ]

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        with self._tokenizing:  # a fast tokenizer refuses a second thread while it is being set
            found: list[list[int]] = self._tokenizer(
                list(texts),
                add_special_tokens=special,
                split_special_tokens=True,  # nobody's text says where a sequence ends
                truncation=False,
                verbose=False,
            )["input_ids"]
        return found

    def prompts(self, question: str, *, titles: bool) -> list[list[int]]:
        """The token ids of the prompt for a text and, with ``titles``, of that for a title."""
        return self._ids(self.family.prompts(question)[: 1 + titles], special=True)

    def check(self, prompts: Sequence[Sequence[int]], written: int) -> None:
        """Raise InvalidInput unless the context holds prompts and ``written`` tokens more."""
        config = self._model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        longest = max(map(len, prompts))
        most = max(longest, written + 1) if self._two_sided else longest + written
        if limit is not None and most > limit:
            raise InvalidInput(
                f"the question has {longest} tokens with its prompt and {written} are to be "
                f"written, but the context of {self.name} is {limit}; shorten the question"
            )

    def open(self, groups: Sequence[Sequence[Sequence[int]]]) -> Hypotheses:
        """Compute prompts, those of each group beginning alike; hold ``lock`` while it is used."""
        if self.packs:
            from rag.retrievers.seal.packed import Packed

            return Packed(self._model, groups)
        from rag.retrievers.seal.rows import Rows

        start = None
        if self._two_sided:
            given = self._model.generation_config.decoder_start_token_id
            start = self._model.config.decoder_start_token_id if given is None else given
        return Rows(self._model, [prompt for group in groups for prompt in group], start=start)

    def without(self, *, titles: bool) -> Hypotheses:
        """The prompts of no question, computed once; hold ``lock`` while it is used."""
        prompts = self.prompts("", titles=titles)
        key = tuple(map(tuple, prompts))
        if key not in self._without:
            self._without[key] = self.open([prompts])
        return self._without[key]

    def remember(self, kind: int, ngram: tuple[int, ...], log_p: float) -> None:
        """Keep the log-probability of an n-gram without a question; the oldest one goes."""
        self.remembered[kind, ngram] = log_p
        if len(self.remembered) > REMEMBERED:
            self.remembered.popitem(last=False)


def _packs(model: Any) -> bool:
    """Whether a row of a causal model can hold many hypotheses.

    It can where positions and mask are ours to give. A model may take both and use neither as it
    is meant, so the same three tokens are computed in both ways.
    """
    import numpy as np
    import torch

    from rag.retrievers.seal.packed import Packed
    from rag.retrievers.seal.rows import Rows

    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    sides = [[1, 2, 3], [1, 2, 4], [1, 5]]
    try:
        packed = Packed(model, [sides])
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # it takes no mask of four dimensions
    plain = Rows(model, sides, start=None)
    one, other = (torch.log_softmax(each.logits, -1).cpu().numpy() for each in (packed, plain))
    rough = 1e-2 if model.dtype == torch.float32 else 0.2
    return bool(np.allclose(one, other, atol=rough))
