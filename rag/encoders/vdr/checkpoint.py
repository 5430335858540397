"""Checkpoints of VDR: published ones of one or two towers, and a start from any BERT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.encoders.dupmae.load import differences
from rag.encoders.vdr.bags import tower_settings
from rag.encoders.vdr.model import VDR, VDRConfig
from rag.errors import InvalidInput
from rag.models.load import tensors_of

TOWERS = ("encoder_q", "encoder_p")
HEAD_WIDTH = 64
"""The width of an attention head in every published BERT but the smallest."""


def from_bert(folder: Path | str, **settings: Any) -> VDR:
    """A VDR whose BERT has the weights in a folder, and whose LayerNorm is fresh.

    Args:
        folder: a folder of safetensors as transformers saves any BERT.
        settings: ``VDRConfig``'s own.

    Raises:
        NotFound, InvalidInput, BackendFailed: as ``rag.encoders.dupmae.load.read_masked_lm``.
    """
    from rag.encoders.dupmae.load import read_masked_lm

    bert = read_masked_lm(folder, fresh_head=True)
    made: VDR = VDR(VDRConfig(**{**bert.config.to_dict(), **settings, "model_type": "vdr"}))
    made.bert_model.load_state_dict(bert.bert.state_dict())
    made.eval()
    return made


def load(folder: Path | str) -> dict[str, VDR]:
    """The towers ``encoder_q`` and ``encoder_p`` of a folder; one and the same where it has one.

    Tensors are read of safetensors, or of ``pytorch_model.bin`` with ``weights_only``, which runs
    no code.

    Raises:
        NotFound: it holds no model, or no weights.
        InvalidInput: it is no VDR model, or keys or shapes differ; the message says which.
        BackendFailed: its files cannot be read.
    """
    path = Path(folder)
    config = path / "config.json"
    settings = tower_settings(path)
    read = json.loads(config.read_text("utf-8"))
    bert = read if read.get("model_type") == "vdr" else read.get("bert")
    return towers(tensors_of(path), settings, bert)


def towers(
    state: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    bert: Mapping[str, Any] | None = None,
) -> dict[str, VDR]:
    """The towers of a state dict with the published names.

    Args:
        state: ``encoder_q.*`` and ``encoder_p.*``, or one of the two for both towers, or names
            without either; each with ``ln.*`` and ``bert_model.*``.
        settings: for each tower shift_vocab_num, topk and max_len.
        bert: the BERT's settings, or some of them; the others are read from the shapes, as
            published files say no more than a BERT's name: heads are 64 wide.

    Raises:
        InvalidInput: keys or shapes differ.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        tower, _, rest = name.partition(".")
        if tower not in TOWERS:
            tower, rest = TOWERS[0], name
        if not rest.endswith("embeddings.position_ids"):  # a buffer of older transformers
            found.setdefault(tower, {})[rest] = tensor
    made = {tower: _tower(tower, own, settings[tower], bert) for tower, own in found.items()}
    if not made:
        raise InvalidInput("the checkpoint holds no weights")
    return {tower: made.get(tower) or next(iter(made.values())) for tower in TOWERS}


def _tower(
    tower: str,
    state: dict[str, Any],
    settings: Mapping[str, Any],
    bert: Mapping[str, Any] | None,
) -> VDR:
    own = {name: settings[name] for name in ("shift_vocab_num", "topk", "max_len")}
    sizes = {**_sizes(tower, state), **(bert or {})}
    model: VDR = VDR(VDRConfig(**{**sizes, **own, "model_type": "vdr"}))
    if differing := differences(state, model.state_dict()):
        raise InvalidInput(
            f"{tower} is no tower of a VDR: {differing}; expected are ln.* and bert_model.* of a "
            "BERT without pooler"
        )
    model.load_state_dict(state)
    model.eval()
    return model


def _sizes(tower: str, state: Mapping[str, Any]) -> dict[str, int]:
    """A BERT's sizes by the shapes of its weights."""
    prefix = "bert_model.embeddings."
    names = {
        "vocab_size": f"{prefix}word_embeddings.weight",
        "max_position_embeddings": f"{prefix}position_embeddings.weight",
        "type_vocab_size": f"{prefix}token_type_embeddings.weight",
        "intermediate_size": "bert_model.encoder.layer.0.intermediate.dense.weight",
    }
    missing = [name for name in names.values() if name not in state]
    if missing:
        raise InvalidInput(
            f"{tower} is no tower of a VDR: missing: {', '.join(missing)}; it has "
            f"{', '.join(sorted(state)[:5])}, ..."
        )
    sizes = {key: int(state[name].shape[0]) for key, name in names.items()}
    hidden = int(state[names["vocab_size"]].shape[1])
    layers = {name.split(".")[3] for name in state if name.startswith("bert_model.encoder.layer.")}
    return {
        **sizes,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // HEAD_WIDTH),
    }
