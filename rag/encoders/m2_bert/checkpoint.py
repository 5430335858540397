"""Published weights of M2-BERT: read, checked key by key, and grown to longer texts.

The published files are those of HazyResearch/m2 (Apache-2.0): ``pytorch_model.bin`` or safetensors
with a ``config.json`` beside them. Nothing of their code is used, and nothing in a file is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rag.encoders.m2_bert.config import FOREIGN, M2BertConfig
from rag.encoders.m2_bert.convolution import LongConvolution, features, times
from rag.encoders.m2_bert.model import M2Bert
from rag.errors import BackendFailed, InvalidInput, NotFound

PREFIXES = ("module.", "model.", "bert.")
"""What stands before the names: of a wrapper, of the training program, of the model."""

IGNORED = re.compile(
    r"embeddings\.(position_ids|token_type_ids)$|encoder\.flashfft\.|classifier\.|dropout\.|cls\."
    r"|encoder\.layer\.\d+\.attention\.(filter_fn2?\.)?flashfft\."
)
"""Numbers counted from 0, buffers of a CUDA kernel, and heads for other tasks."""

FREQUENCY = re.compile(r"(.*\.filter_fn2?)\.implicit_filter(?:_rev)?\.[135]\.freq$")
"""Six names of one parameter: all the sines of a convolution share their frequencies."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def load_published(folder: str | Path, *, pooler: bool = True, **settings: Any) -> M2Bert:
    """A model from a published folder, in float32, on the CPU and ready to run.

    Args:
        folder: holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
        pooler: read the dense layer over [CLS] too; files that were not trained for retrieval
            have none.
        settings: of `M2BertConfig`, such as ``exact_reference=True``; they go before the folder's.

    Raises:
        NotFound: there is no such folder or file.
        InvalidInput: keys or shapes differ (the message says which), or the config is of another
            architecture.
        BackendFailed: a file cannot be read.
    """
    folder = Path(folder)
    place = folder / "config.json"
    if not place.is_file():
        raise NotFound(f"{folder} holds no M2-BERT (no config.json)")
    try:
        given = json.loads(place.read_text("utf-8"))
    except ValueError as error:
        raise BackendFailed(f"{place}: it is no JSON: {error}") from error
    kept = {name: value for name, value in given.items() if name not in FOREIGN}
    config = M2BertConfig(**kept | settings | {"pooler": pooler})
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise NotFound(f"{folder} holds no weights ({' or '.join(WEIGHTS)})")
    return from_published(read_weights(file), config, name=str(file))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that torch wrote, without running what is in it.

    Raises:
        BackendFailed: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        if file.suffix == ".safetensors":
            held: Any = load_file(file)
        else:
            held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise BackendFailed(f"{file}: the weights cannot be read: {error}") from error
    for name in ("state", "model"):  # as the training program Composer nests them
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    if not isinstance(held, Mapping) or not all(isinstance(x, Tensor) for x in held.values()):
        raise BackendFailed(f"{file}: it holds other things than named tensors; it is no M2-BERT")
    return dict(held)


def from_published(
    state: Mapping[str, Tensor], config: M2BertConfig, *, name: str = "the state dict"
) -> M2Bert:
    """A model with the weights of a published state dict, whose tensors it may share.

    Prefixes are stripped, and `IGNORED` keys left out. ``name`` is for errors.

    Raises:
        InvalidInput: a key is missing, left over, or has another shape; all are counted.
    """
    ours = renamed(state, name)
    with torch.device("meta"):
        model = M2Bert(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in ours.items()}
    lines = differences(wanted, found)
    if lines:
        hint = ""
        if config.pooler and not any(key.startswith("pooler.") for key in found):
            hint = "\nit has no pooler, so it was not trained for retrieval: pooler=False reads it"
        raise InvalidInput(
            f"{name}: its keys are not those of an M2-BERT of {config.max_position_embeddings} "
            f"tokens and {config.num_hidden_layers} layers (names without prefix):\n"
            + "\n".join(lines)
            + hint
        )
    model.load_state_dict({key: value.float() for key, value in ours.items()}, assign=True)
    model.eval()
    return model


def renamed(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under our names: those of the file less prefixes, and one ``freq`` each."""
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        short = key
        while prefix := next((p for p in PREFIXES if short.startswith(p)), None):
            short = short.removeprefix(prefix)
        if IGNORED.match(short):
            continue
        alias = FREQUENCY.match(short)
        if alias:
            short = f"{alias[1]}.freq"
        if short in ours and not (alias and torch.equal(ours[short], value)):
            raise InvalidInput(
                f"{name}: {key!r} stands for {short!r}, of which another key gave other values"
            )
        ours[short] = value
    return ours


def differences(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], most: int = 8
) -> list[str]:
    """What differs between two tables of names and shapes, in lines; at most ``most`` of a kind."""
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "left over": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {found[key]}, expected {shape}"
            for key, shape in wanted.items()
            if key in found and found[key] != shape
        ],
    }
    return [
        f"  {len(keys)} {kind}: {'; '.join(keys[:most])}{'; …' if len(keys) > most else ''}"
        for kind, keys in kinds.items()
        if keys
    ]


def longer(model: M2Bert, length: int) -> M2Bert:
    """A model for texts of ``length`` tokens that starts from a shorter one, to be trained further.

    The position table is repeated until it is full. The kernels' z and t are made anew, since
    they say where a lag lies in the whole; all other weights are copied. (The reference's
    expansion to 32,768 repeats the table once too often, and leaves most of z zero.)

    Raises:
        InvalidInput: ``length`` is shorter than what the model reads.
    """
    short = model.config.max_position_embeddings
    if length < short:
        raise InvalidInput(f"M2-BERT: it reads {short} tokens, so {length} would not be longer")
    settings = model.config.to_dict() | {"max_position_embeddings": length}
    settings.pop("long_conv_l_max", None)
    grown = M2Bert(M2BertConfig(**settings))
    state = dict(model.state_dict())
    table = state["embeddings.position_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = table.repeat(-(-length // short), 1)[:length]
    for name, module in model.named_modules():
        if isinstance(module, LongConvolution):
            state[f"{name}.pos_emb.z"] = features(length, module.pos_emb.z.shape[2])
            state[f"{name}.pos_emb.t"] = times(length)
    grown.load_state_dict(state)
    grown.train(model.training)
    return grown
