"""The backend ``transformers``: a causal or sequence-to-sequence model, run by torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rag.backend import Backend, Conversation, Reply, Session, Tell, Waits
from rag.errors import BackendFailed, InvalidInput, MissingExtra, NotFound
from rag.readers.backends.gguf import PACKAGED, converted, gguf_file
from rag.stage import Context

if TYPE_CHECKING:
    from rag.readers.backends.transformers_model import Model

_HUB = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Not folders of other forms of the model (onnx/), nor the same weights in another form.
_NOT_FILES = ["*/*", "consolidated*"]


class Transformers(Backend, name="transformers"):
    """Run a model with Hugging Face transformers in this process; needs the extra ``models``.

    Causal and sequence-to-sequence models are told apart by their configuration. A prompt goes
    through the chat template of the tokenizer, or as plain text where there is none. A GGUF file is
    dequantised once to float32 and kept (``rag.readers.backends.gguf``).

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
        from rag.readers.backends.transformers_load import load

        folder = folder_of(place, self.revision)
        return load(self.model, folder, dtype=self.dtype, device=self.device)


def place_of(model: str, revision: str | None = None) -> Path | str:
    """The folder or GGUF file of a model, or else its name at Hugging Face.

    Raises:
        NotFound: it can be neither.
        InvalidInput: a ``revision`` of a model on this machine.
    """
    path = Path(model).expanduser()
    found: Path | str = model
    if model in PACKAGED or path.suffix == ".gguf" or path.is_file():
        found = gguf_file(model, "transformers").resolve()
    elif path.is_dir():
        found = path.resolve()
    elif _HUB.fullmatch(model) is None:
        raise NotFound(
            f"no model {model!r}: expected a folder, a .gguf file, a name at Hugging Face "
            f"such as Qwen/Qwen3-0.6B, or a packaged model: {', '.join(PACKAGED)}"
        )
    if isinstance(found, Path) and revision is not None:
        raise InvalidInput(
            f"revision {revision!r}: {model} is on this machine, and only a model at "
            "Hugging Face has revisions; leave it out"
        )
    return found


def folder_of(place: Path | str, revision: str | None = None) -> Path:
    """The folder with the safetensors of a model, downloaded or converted if need be."""
    if isinstance(place, str):
        return _fetched(place, revision)
    return place if place.is_dir() else converted(place)


def files_of(place: Path | str, revision: str | None = None) -> list[Path]:
    """The files that make up a model: its GGUF file, or what is read of its folder.

    A model at Hugging Face is downloaded for it, as it is to open it.

    Raises:
        MissingExtra: huggingface_hub, which downloads, is not installed.
        NotFound: there is no such model.
    """
    if isinstance(place, str):
        if find_spec("huggingface_hub") is None:
            raise MissingExtra("models", "huggingface_hub")
        place = _fetched(place, revision)
    if not place.is_dir():
        return [place]
    files = [path for path in place.iterdir() if path.is_file()]
    return sorted(path for path in files if any(fnmatch(path.name, form) for form in _FILES))


def _fetched(name: str, revision: str | None) -> Path:
    """The folder of a model from Hugging Face, downloaded unless it was before.

    transformers would do it by itself, but it also asks a server to convert pickled weights, which
    nobody asked for.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=_FILES, ignore_patterns=_NOT_FILES
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = name if revision is None else f"{name} at {revision}"
        raise NotFound(
            f"no model {what!r}: it is no folder here, and Hugging Face gives none "
            f"({str(error).strip().splitlines()[0]}); check the name and the connection (offline, "
            "only what was downloaded before can be opened); for a gated model: hf auth login"
        ) from error


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
