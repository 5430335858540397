"""The published SEAL models: a checkpoint of fairseq as a BART of transformers.

    convert(Path("SEAL.NQ.pt"), Path("bart-large"), Path("seal-nq"))

A checkpoint holds weights and no tokenizer, so that a folder with the files of facebook/bart-large
(``config.json`` and the tokenizer; weights are not read) gives the rest. Weights keep their names
but for the prefix ``model.``; the embeddings get one row of zeros, because fairseq's vocabulary has
one token less; the output layer is the embedding. Padding, the beginning and the mask are forbidden
by a bias of minus infinity, as the reference forbids them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from rag.errors import Damaged, InvalidInput, NotFound

_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_SHARED = "shared.weight"
# What fairseq keeps beside the weights: versions of its format, empty tensors that hold a dtype.
_NOT_WEIGHTS = ("version", "_float_tensor", "output_projection.weight")
_FORBIDDEN = ("pad_token_id", "bos_token_id", "mask_token_id")


def read(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by fairseq's names; nothing but tensors and settings is loaded.

    Raises:
        NotFound: there is no such file.
        Damaged: it cannot be read as a checkpoint.
        InvalidInput: it holds objects that could run code, or no model.
    """
    import argparse

    import torch

    if not path.is_file():
        raise NotFound(f"no checkpoint {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))
    except UnpicklingError as error:
        raise InvalidInput(
            f"{path} holds more than weights, and what else it holds could run code, so it is not "
            f"loaded ({str(error).strip().splitlines()[0]}); where fairseq is installed, write its "
            "weights alone: torch.save({'model': torch.load(path)['model']}, new_path)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise Damaged(f"{path} is no whole checkpoint: {str(error).strip()}") from error
    weights = found.get("model") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise InvalidInput(f"{path}: expected a checkpoint of fairseq, with weights under 'model'")
    return weights


def _zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # the older format cannot be memory-mapped


def renamed(weights: dict[str, Any], config: Any, shapes: dict[str, Any]) -> dict[str, Any]:
    """The weights by the names of transformers.

    weights: by fairseq's names.
    config: of the BART that is to hold them.
    shapes: name -> shape of every weight of that model.

    Raises:
        InvalidInput: names or shapes differ from those of the model; it says which.
    """
    import torch

    found = {}
    for name, tensor in weights.items():
        if name.endswith(_NOT_WEIGHTS):
            continue
        if name in _EMBEDDINGS and tensor.shape[0] == config.vocab_size - 1:
            tensor = torch.cat([tensor, tensor.new_zeros((1, tensor.shape[1]))])
        found[f"model.{name}"] = tensor
    shared = found.get("model.decoder.embed_tokens.weight")
    if shared is not None:
        found[f"model.{_SHARED}"] = found["lm_head.weight"] = shared
        # One matrix stands under all four names.
        found["model.encoder.embed_tokens.weight"] = shared
    bias = torch.zeros(1, config.vocab_size)
    for name in _FORBIDDEN:
        token = getattr(config, name, None)
        if name == "mask_token_id" and token is None:
            token = config.vocab_size - 1
        if token is not None:
            bias[0, token] = -torch.inf
    found["final_logits_bias"] = bias
    _compare(found, shapes)
    return found


def _compare(found: dict[str, Any], shapes: dict[str, Any]) -> None:
    """Raise InvalidInput that says which keys are missing, not known, or of another shape."""
    said = []
    if missing := sorted(shapes.keys() - found.keys()):
        said.append(f"{len(missing)} are missing, such as {', '.join(missing[:3])}")
    if extra := sorted(found.keys() - shapes.keys()):
        said.append(f"{len(extra)} are not known, such as {', '.join(extra[:3])}")
    said += [
        f"{name} has the shape {tuple(found[name].shape)}, expected {tuple(shapes[name])}"
        for name in sorted(found.keys() & shapes.keys())
        if tuple(found[name].shape) != tuple(shapes[name])
    ][:3]
    if said:
        raise InvalidInput(
            "the checkpoint is not one of this BART: of the weights, "
            + "; ".join(said)
            + "; give the folder of the model that it was trained from (facebook/bart-large for "
            "the published SEAL models)"
        )


def shapes_of(config: Any) -> dict[str, Any]:
    """Name -> shape of every weight and buffer of a BART, made without memory."""
    import torch
    from transformers import BartForConditionalGeneration

    with torch.device("meta"):
        model = BartForConditionalGeneration(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def convert(checkpoint: Path, base: Path, folder: Path) -> Path:
    """Write a model that ``SealModel.load`` reads into a new ``folder``; return it.

    checkpoint: a ``.pt`` file of fairseq.
    base: a folder with config.json and the tokenizer of the BART that it was trained from.

    Raises:
        NotFound: there is no such file, or ``base`` has no config.json.
        Damaged: the checkpoint is cut off.
        InvalidInput: ``folder`` is there already, ``base`` is no BART, or the checkpoint is not one
            of it; the message names the keys that differ.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, BartForConditionalGeneration

    if folder.exists():
        raise InvalidInput(f"{folder} is there already; give a new folder")
    if not (base / "config.json").is_file():
        raise NotFound(f"{base} holds no config.json; give the folder of facebook/bart-large")
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    if config.model_type != "bart":
        raise InvalidInput(f"{base} holds a model of type {config.model_type!r}, expected 'bart'")
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    if tokenizer.mask_token_id is not None:
        config.mask_token_id = tokenizer.mask_token_id
    weights = renamed(read(checkpoint), config, shapes_of(config))
    config.forced_bos_token_id = config.forced_eos_token_id = None
    with torch.device("meta"):
        model = BartForConditionalGeneration(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.generation_config.forced_bos_token_id = None
    model.generation_config.forced_eos_token_id = None
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
