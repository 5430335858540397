"""A loaded model of transformers: its prompts, its batches, its replies."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from rag.backend import Conversation, Reply, Tell, Waits
from rag.errors import BackendFailed, Cancelled
from rag.readers.backends.turns import turn


@dataclass(frozen=True, slots=True)
class Writing:
    """How the answers of one call are written; see the contract in ``rag.backend``."""

    max_tokens: int
    temperature: float
    stop: Sequence[str]
    seed: int


class Model:
    """One loaded model with its tokenizer; threads take turns at it."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        """Hold a ``model`` that errors call ``name``."""
        self._name, self._model, self._tokenizer = name, model, tokenizer
        self._two_sided = bool(model.config.is_encoder_decoder)
        self._ids = _token_ids(model, tokenizer)
        self._ends = frozenset(self._ids["eos_token_id"] or ())
        self._generating, self._tokenizing = threading.Lock(), threading.Lock()
        self.count = lru_cache(maxsize=16_384)(self._count)

    def _count(self, text: str) -> int:
        return len(self._tokens(text, special=False))

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        with self._tokenizing:  # a fast tokenizer refuses a second thread while it is being set
            found: list[int] = self._tokenizer(
                text, add_special_tokens=special, truncation=False, verbose=False
            )["input_ids"]
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def prompt(self, conversation: Conversation, max_tokens: int) -> list[int]:
        """The tokens of a conversation, by the chat template where the tokenizer has one.

        Raises:
            BackendFailed: the template refuses it, or with the answer it is over the context.
        """
        from jinja2 import TemplateError

        messages = [dict(message) for message in conversation]
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages)
            tokens = self._tokens(text, special=True)
        else:
            try:
                text = self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except TemplateError as error:
                raise BackendFailed(
                    f"the chat template of {self._name} refuses the conversation: {error}"
                ) from error
            tokens = self._tokens(text, special=False)
        self._check_length(len(tokens), max_tokens)
        return tokens

    def _check_length(self, prompt: int, answer: int) -> None:
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        # An encoder and its decoder each count their own positions.
        most = max(prompt, answer + 1) if self._two_sided else prompt + answer
        if not prompt:
            raise BackendFailed(f"{self._name}: the prompt has no tokens")
        if limit is not None and most > limit:
            raise BackendFailed(
                f"{self._name}: the prompt has {prompt} tokens and the answer may have {answer}, "
                f"but the model's context is {limit}; lower 'budget' or 'max_tokens' of generate"
            )

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        writing: Writing,
        tell: Tell | None = None,
        waits: Waits | None = None,
    ) -> list[Reply | Exception]:
        """The replies to one batch of prompts (token ids, of any lengths).

        ``tell`` and ``waits`` count the prompts of this batch (``rag.backend``).
        """
        import torch
        from transformers import GenerationConfig

        from rag.readers.backends.decoding import Choosing, Watching, seed_of

        seeds = [seed_of(writing.seed, prompt) for prompt in prompts]
        choosing = Choosing(writing.temperature, seeds)
        watching = Watching(writing.stop, self._written, choosing, tell, waits)
        anybody = None if waits is None else lambda: any(map(waits, range(len(prompts))))
        try:
            with turn(self._generating, anybody) as held, torch.inference_mode():
                if not held:
                    return [Cancelled("cancelled before the model was asked") for _ in prompts]
                rows = self._model.generate(
                    **self._padded(prompts),
                    generation_config=GenerationConfig(
                        **self._ids,
                        max_new_tokens=writing.max_tokens,
                        do_sample=False,  # `choosing` draws
                        num_beams=1,
                    ),
                    logits_processor=[choosing],
                    stopping_criteria=[watching] if writing.stop or tell or waits else [],
                )
        except RuntimeError as error:  # torch's: the memory, or the device
            if error is watching.raised:
                raise
            failed = BackendFailed(
                f"{self._name}: {str(error).strip()}; if memory is short, lower 'batch_size' of "
                "transformers or 'budget' of generate"
            )
            return [failed] * len(prompts)
        written = rows[:, choosing.start :].tolist()
        pairs = zip(written, choosing.logprobs, strict=False)
        return [
            Cancelled("cancelled while the model wrote")
            if at in watching.dropped
            else self._reply(tokens, logprobs, writing.stop, partial(watching.say, at))
            for at, (tokens, logprobs) in enumerate(pairs)
        ]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Ids and mask, (b, longest) int64 each: padded at the left where the model goes on there.

        A decoder writes after its prompt, so that all prompts have to end in one column; the
        encoder of a sequence-to-sequence model has learnt its positions from the left.
        """
        import torch

        longest = max(map(len, prompts))
        ids, mask = [], []
        for prompt in prompts:
            padding = longest - len(prompt)
            pad, one, zero = [self._ids["pad_token_id"]] * padding, [1] * len(prompt), [0] * padding
            ids.append([*prompt, *pad] if self._two_sided else [*pad, *prompt])
            mask.append([*one, *zero] if self._two_sided else [*zero, *one])
        device = self._model.device
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _written(self, tokens: list[int]) -> str:
        """The text of a row up to its end token."""
        ends = [at for at, token in enumerate(tokens) if token in self._ends]
        return self._text(tokens[: ends[0]] if ends else tokens)

    def _reply(
        self,
        tokens: list[int],
        logprobs: Sequence[float],
        stop: Sequence[str],
        say: Callable[[str], None],
    ) -> Reply | Exception:
        """What one row wrote, up to its end token or its first stop text."""
        ends = [at for at, token in enumerate(tokens) if token in self._ends]
        tokens = tokens[: ends[0]] if ends else tokens
        text = self._text(tokens)
        stops = [at for at in map(text.find, stop) if at >= 0]
        if stops:
            text = text[: min(stops)].rstrip()
            size = 0
            while not self._text(tokens[:size]).startswith(text):
                size += 1
            tokens = tokens[:size]
        kept = tuple(logprobs[: len(tokens)])
        if any(map(math.isnan, kept)):
            return BackendFailed(
                f"{self._name}: its numbers overflow in this dtype; use float32 or bfloat16"
            )
        if not text.strip():
            return BackendFailed("the model wrote nothing; raise max_tokens, or look at 'stop'")
        say(text)
        return Reply(text.strip(), "stop" if ends or stops else "length", kept)

    def close(self) -> None:
        """Free the model."""
        self._model = None


def _token_ids(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The special tokens of a model; everything else that it says on generation is put away.

    Its penalties, beams and sampling would come on top of what ``generate`` was asked for.
    """
    from transformers import GenerationConfig

    given = model.generation_config
    names = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
    ids = {name: getattr(given, name, None) for name in names}
    ends = given.eos_token_id
    ends = list(ends) if isinstance(ends, list | tuple) else [ends]
    # A chat model may end its turn with another token than its texts.
    ends = sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})
    pads = [tokenizer.pad_token_id, given.pad_token_id, *ends, 0]
    ids["pad_token_id"] = next(pad for pad in pads if pad is not None)
    ids["eos_token_id"] = ends or None
    model.generation_config = GenerationConfig(**ids)
    return ids
