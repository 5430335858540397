"""The backend ``transformers``: a causal or sequence-to-sequence model, run by torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rag.backend import Backend, Conversation, Reply, Session, Tell, Waits
from rag.errors import BackendFailed, MissingExtra
from rag.models.place import files_of, folder_of, place_of
from rag.stage import Context

if TYPE_CHECKING:
    from rag.readers.backends.transformers_model import Model


class Transformers(Backend, name="transformers"):
    """Run a model with Hugging Face transformers in this process; needs the extra ``models``.

    Causal and sequence-to-sequence models are told apart by their configuration. A prompt goes
    through the chat template of the tokenizer, or as plain text where there is none. A GGUF file is
    dequantised once to float32 and kept (``rag.models.gguf``).

    Only safetensors are read, and no code that a model brings. A name that is no path is the name
    of a model at Hugging Face, which is downloaded once; HF_HUB_OFFLINE=1 forbids that.

    Questions are answered in batches of similar length. In float32 an answer is the same in any
    batch, but for ties to rounding; a sampled one depends on the seed and its own prompt. Of the
    model's own settings for generation only the special tokens count.
    """

    model: str = Field(
        description="A model at Hugging Face, a folder, a .gguf file, or smollm2.", min_length=1
    )
    revision: str | None = Field(None, description="A branch, tag or commit at Hugging Face.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="What it computes in; auto: as it is stored."
    )
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        description="cpu, mps, cuda or cuda:1; default: cuda where there is one, else cpu.",
    )
    batch_size: int = Field(8, gt=0, description="The most questions at a time.")

    def open(self, context: Context) -> Session:
        """Load the model, or share it with whoever has it open.

        Raises:
            MissingExtra: torch or transformers, or what reads GGUF files, is not installed.
            NotFound: there is no such model.
            InvalidInput: its weights are pickled, or there is no such device.
            BackendFailed: it cannot be loaded.
        """
        for module in ("torch", "transformers"):
            if find_spec(module) is None:
                raise MissingExtra("models", module)
        place = place_of(self.model, self.revision)
        key = ("transformers", place, self.revision, self.dtype, self.device)
        return TransformersSession(context.get(key, lambda: self._load(place)), self.batch_size)

    def files(self) -> list[Path]:
        """The model's files: what a job of ``rag run`` knows the model by; see ``files_of``."""
        return files_of(place_of(self.model, self.revision), self.revision)

    def _load(self, place: Path | str) -> Model:
        from rag.models.load import parts
        from rag.readers.backends.transformers_model import Model

        folder = folder_of(place, self.revision)
        return Model(self.model, *parts(self.model, folder, dtype=self.dtype, device=self.device))


class TransformersSession:
    """A loaded model that answers in batches."""

    def __init__(self, model: Model, batch_size: int) -> None:
        """Answer at most ``batch_size`` conversations at a time."""
        self._model, self._size = model, batch_size

    def count(self, text: str) -> int:
        """The number of tokens of a text, without special ones."""
        return self._model.count(text)

    def chat(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
        tell: Tell | None = None,
        waits: Waits | None = None,
    ) -> list[Reply | Exception]:
        """All replies, in batches of similar length.

        A row that nobody waits for ends where it is, and its batch with the last row in it.
        """
        from rag.readers.backends.transformers_model import Writing

        writing = Writing(max_tokens, temperature, stop, seed)
        replies = dict[int, Reply | Exception]()
        prompts = dict[int, list[int]]()
        for row, conversation in enumerate(conversations):
            try:
                prompts[row] = self._model.prompt(conversation, max_tokens)
            except BackendFailed as error:
                replies[row] = error
        order = sorted(prompts, key=lambda row: len(prompts[row]))
        for at in range(0, len(order), self._size):
            rows = order[at : at + self._size]
            written = self._model.write(
                [prompts[row] for row in rows],
                writing,
                None if tell is None else partial(_placed, tell, rows),
                None if waits is None else partial(_placed, waits, rows),
            )
            replies.update(zip(rows, written, strict=True))
        return [replies[row] for row in range(len(conversations))]


def _placed(function: Callable[..., Any], rows: Sequence[int], at: int, *given: Any) -> Any:
    """``function`` of the conversation that stands at a place of a batch."""
    return function(rows[at], *given)
