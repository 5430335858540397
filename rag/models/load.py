"""Loading a model of transformers from a folder, and refusing what is no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag.errors import BackendFailed, InvalidInput, NotFound


def family(config: Any) -> Any:
    """The class that loads a model: causal, or sequence-to-sequence, as its config says."""
    import transformers

    two_sided = getattr(config, "is_encoder_decoder", False)
    return transformers.AutoModelForSeq2SeqLM if two_sided else transformers.AutoModelForCausalLM


def parts(name: str, folder: Path, *, dtype: str, device: str | None) -> tuple[Any, Any]:
    """Load model and tokenizer: safetensors only, no code of the model's own, no network.

    The model comes ready to run, on its device and without dropout. ``name`` is for errors.

    Raises:
        NotFound: the folder holds no model.
        InvalidInput: its weights are pickled, or there is no such device.
        BackendFailed: transformers cannot load it, or weights are missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer

    place = device_of(device)
    check_folder(name, folder)
    only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, **only)
            tokenizer = AutoTokenizer.from_pretrained(folder, **only)
            model, found = family(config).from_pretrained(
                folder,
                config=config,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                output_loading_info=True,
                **only,
            )
            model = model.to(place).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise BackendFailed(
            f"cannot load the model {name}: {str(error).strip()} (in {folder}; a model that brings "
            "code of its own is not loaded)"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise BackendFailed(
            f"{name} is no model that writes text: {len(missing)} weights are missing for that, "
            f"such as {missing[0]}; use a causal or a sequence-to-sequence language model"
        )
    return model, tokenizer


def device_of(device: str | None) -> str:
    """The device that a setting means: itself, or cuda where there is one, else cpu.

    Raises:
        InvalidInput: torch finds no such device here.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    kind = device.partition(":")[0]
    if kind in there and not there[kind]():
        raise InvalidInput(f"device {device!r}: torch finds none on this machine; use cpu")
    return device


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder without a model in safetensors; ``name`` is for errors.

    Raises:
        NotFound: the folder holds no model.
        InvalidInput: its weights are pickled.
    """
    if not (folder / "config.json").is_file():
        raise NotFound(f"{name}: {folder} holds no model (no config.json)")
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise InvalidInput(
            f"{name}: its weights are pickled (.bin), which can run code, so they are not read; "
            "use a model with .safetensors, or convert this one with transformers' save_pretrained"
        )
    raise NotFound(f"{name}: {folder} holds no weights (*.safetensors)")


def tensors_of(folder: Path) -> dict[str, Any]:
    """Name to tensor of a folder's safetensors, or else of its ``pytorch_model.bin``.

    That file is a pickle; it is read with ``weights_only``, which runs no code.

    Raises:
        NotFound: the folder holds neither.
        InvalidInput: the pickle holds anything but names and tensors.
        BackendFailed: a file cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    files = sorted(folder.glob("*.safetensors"))
    try:
        for file in files:
            state |= load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise BackendFailed(f"cannot read the model in {folder}: {error}") from error
    if files:
        return state
    pickled = folder / "pytorch_model.bin"
    if not pickled.is_file():
        raise NotFound(f"{folder} holds no weights (*.safetensors or pytorch_model.bin)")
    try:
        found = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # torch says it in many ways
        raise InvalidInput(
            f"{pickled}: cannot be read as tensors alone, and more is not read: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if not isinstance(found, dict) or not all(hasattr(value, "shape") for value in found.values()):
        raise InvalidInput(f"{pickled}: holds something else than names and tensors")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the terminal for a while."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
