"""Where a model of transformers lies: a folder, a GGUF file that is converted, or Hugging Face."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from rag.errors import InvalidInput, MissingExtra, NotFound
from rag.models.gguf import PACKAGED, converted, gguf_file

_HUB = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Not folders of other forms of the model (onnx/), nor the same weights in another form.
_NOT_FILES = ["*/*", "consolidated*"]
_NOT_MODULES = ["onnx/*", "openvino/*", "consolidated*"]


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


def folder_of(
    place: Path | str, revision: str | None = None, *, modules: bool = False, pickled: bool = False
) -> Path:
    """The folder with the safetensors of a model, downloaded or converted if need be.

    ``modules``: with the folders in it that hold further modules of sentence-transformers.
    ``pickled``: with pytorch_model.bin, for whoever reads nothing but tensors of it.
    """
    if isinstance(place, str):
        also = ["pytorch_model.bin"] if pickled else []
        return _fetched(place, revision, _NOT_MODULES if modules else _NOT_FILES, also)
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


def _fetched(
    name: str, revision: str | None, without: list[str] = _NOT_FILES, also: list[str] | None = None
) -> Path:
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
                name,
                revision=revision,
                allow_patterns=[*_FILES, *(also or [])],
                ignore_patterns=without,
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = name if revision is None else f"{name} at {revision}"
        raise NotFound(
            f"no model {what!r}: it is no folder here, and Hugging Face gives none "
            f"({str(error).strip().splitlines()[0]}); check the name and the connection (offline, "
            "only what was downloaded before can be opened); for a gated model: hf auth login"
        ) from error
