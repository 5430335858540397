"""The most probable span of the passages, by a SQuAD-style model of transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput, MissingExtra, NotFound
from rag.readers.passages import Found, Passage

if TYPE_CHECKING:
    from rag.readers.extract import Extract


@dataclass(frozen=True, slots=True)
class Window:
    """What the model said of one window of one passage, for its tokens that are passage text.

    Attributes:
        passage: which of the given passages.
        spans: (t, 2) int64, each token's place in the passage's stored text; ascending.
        starts: (t,) float64, logits of the answer's first token.
        ends: (t,) float64, logits of its last.
        null: start plus end logit of the classification token.
    """

    passage: int
    spans: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    null: float


def best_span(
    windows: Sequence[Window], *, longest: int, null: bool
) -> tuple[int, int, int, float] | None:
    """The span of the highest score: passage, start, end in its stored text, and confidence.

    A span of the tokens i to j, with i <= j < i + ``longest`` in one window, scores start logit i
    plus end logit j. A span that lies in two windows has the higher of its scores. The confidence
    is the softmax over all spans of all passages. With ``null`` the softmax has one more member,
    the lowest null score of all windows, and where it is above the best span there is no answer
    (Devlin et al., BERT, 2019, section 4.3, with a threshold of 0).

    Ties go to the first passage, the earliest start, the shortest span.
    """
    parts = [_spans(window, longest) for window in windows]
    places = np.concatenate([np.zeros((0, 3), np.int64), *(place for place, _ in parts)])
    scores = np.concatenate([np.zeros(0), *(score for _, score in parts)])
    if not len(scores):
        return None
    places, group = np.unique(places, axis=0, return_inverse=True)
    highest = np.full(len(places), -np.inf)
    np.maximum.at(highest, group.reshape(-1), scores)
    best = int(highest.argmax())
    none = min(window.null for window in windows) if null else -np.inf
    if none > highest[best]:
        return None
    total = np.exp(highest - highest[best]).sum() + np.exp(none - highest[best])
    passage, start, end = places[best].tolist()
    return passage, start, end, float(1 / total)


def _spans(window: Window, longest: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All valid spans of a window: (s, 3) passage, start, end; and their scores (s,)."""
    t = len(window.spans)
    first = np.repeat(np.arange(t), longest)
    last = first + np.tile(np.arange(longest), t)
    first, last = first[last < t], last[last < t]
    start, end = window.spans[first, 0], window.spans[last, 1]
    passage = np.full(len(first), window.passage)
    return np.stack([passage, start, end], axis=1), window.starts[first] + window.ends[last]


class Loaded:
    """A model with its tokenizer, shared by all stages that name it."""

    def __init__(self, name: str, device: str | None) -> None:
        """Load the model.

        Raises:
            MissingExtra: torch or transformers is not installed.
            NotFound: the model is not there, or has no safetensors.
            InvalidInput: it was not trained to find answers, or has no fast tokenizer.
        """
        self.torch = _torch()
        self.tokenizer, model = _load(name)
        self.device = device or ("cuda" if self.torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        # A fast tokenizer keeps its truncation settings between calls, so threads take turns.
        self.turn = threading.Lock()


class SpanReader:
    """Reads one question at a time, so that no answer depends on the rest of a batch."""

    def __init__(self, settings: Extract, loaded: Loaded) -> None:
        """Read with a ``loaded`` model, by the ``settings`` of the stage.

        Raises:
            InvalidInput: windows of ``max_length`` are too long for the model.
        """
        most = getattr(loaded.model.config, "max_position_embeddings", None) or settings.max_length
        if settings.max_length > most:
            raise InvalidInput(
                f"max_length is {settings.max_length}, but {settings.model!r} reads {most} tokens "
                "at most; lower it"
            )
        self._settings, self._loaded = settings, loaded
        self.label = f"extract: {settings.model}"

    def read(self, question: str, given: Sequence[Passage]) -> Found | None:
        """The most probable span, or None where there is none.

        Raises:
            InvalidInput: the question leaves no room for a passage.
        """
        windows = list(self._windows(question.strip(), given))
        found = best_span(
            windows, longest=self._settings.longest_answer, null=self._settings.unanswerable
        )
        if found is None:
            return None
        at, start, end, confidence = found
        # Some tokenizers count the space before a word as part of it.
        text = given[at].stored[start:end]
        start += len(text) - len(text.lstrip())
        return Found(given[at], start, start + len(text.strip()), confidence)

    def _windows(self, question: str, given: Sequence[Passage]) -> Iterator[Window]:
        encoded = self._encoded(question, given)
        size = self._settings.batch_size
        for first in range(0, len(encoded["input_ids"]), size):
            starts, ends = self._logits(encoded, first, first + size)
            for at in range(first, first + len(starts)):
                passage = encoded["overflow_to_sample_mapping"][at]
                sequence = encoded.sequence_ids(at)
                tokens = [t for t, part in enumerate(sequence) if part == 1]
                spans = np.array([encoded["offset_mapping"][at][t] for t in tokens], np.int64)
                spans = spans.reshape(-1, 2) + given[passage].start
                none = encoded["input_ids"][at].index(self._loaded.tokenizer.cls_token_id)
                s, e = starts[at - first], ends[at - first]
                yield Window(passage, spans, s[tokens], e[tokens], float(s[none] + e[none]))

    def _encoded(self, question: str, given: Sequence[Passage]) -> Any:
        settings = self._settings
        with self._loaded.turn:
            tokenizer = self._loaded.tokenizer
            asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
            asked += tokenizer.num_special_tokens_to_add(pair=True)
            if settings.max_length - asked <= settings.stride:
                raise InvalidInput(
                    f"the question takes {asked} of {settings.max_length} tokens, which leaves no "
                    f"room for passages with a stride of {settings.stride}; shorten it, raise "
                    "max_length as far as the model allows, or lower stride"
                )
            return tokenizer(
                [question] * len(given),
                [passage.stored[passage.start : passage.end] for passage in given],
                truncation="only_second",
                max_length=settings.max_length,
                stride=settings.stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )

    def _logits(self, encoded: Any, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(windows, tokens) float64 logits of starts and of ends."""
        names = [name for name in self._loaded.tokenizer.model_input_names if name in encoded]
        with self._loaded.turn:
            inputs = self._loaded.tokenizer.pad(
                {name: encoded[name][first:last] for name in names},
                padding_side="right",
                return_tensors="pt",
            ).to(self._loaded.device)
        with self._loaded.torch.inference_mode():
            out = self._loaded.model(**inputs)
        return out.start_logits.double().cpu().numpy(), out.end_logits.double().cpu().numpy()


def _torch() -> Any:
    for module in ("torch", "transformers"):
        try:
            __import__(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise MissingExtra("models", module) from None
    return __import__("torch")


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except OSError as error:
        raise NotFound(
            f"the reader model {name!r} cannot be loaded: {error} ('model' of extract is a folder "
            "or a hub name with safetensors)"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"{name!r} is no model for question answering: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise InvalidInput(
            f"{name!r} was not trained to find answers: it has no weights for "
            f"{', '.join(missing[:3])}; choose a model that was fine-tuned on SQuAD"
        )
    if not tokenizer.is_fast:
        raise InvalidInput(f"{name!r} has no fast tokenizer, which alone knows character offsets")
    return tokenizer, model
