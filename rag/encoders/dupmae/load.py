"""Weights of others: BERT and RetroMAE checkpoints, and what differs in a wrong one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.encoders.dupmae.model import DupMAE
from rag.errors import BackendFailed, InvalidInput, NotFound
from rag.models.load import check_folder, quiet

SHOWN = 5
"""So many names of a kind are written in an error."""

_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_TOKENIZER = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
# Buffers of older transformers, and parts that pre-training has no use for.
_LEFT = ("bert.embeddings.position_ids", "bert.pooler.", "cls.seq_relationship.")


def masked_lm(state: Mapping[str, Any], config: Any) -> Any:
    """A ``BertForMaskedLM`` with the weights of a checkpoint of BERT or RetroMAE.

    The names are those of the class: ``bert.embeddings.*``, ``bert.encoder.layer.N.*``,
    ``cls.predictions.*``. Tied weights may stand there or not; a pooler, the head for next
    sentences and ``position_ids`` are left out, and ``gamma`` and ``beta`` of the oldest files
    are read as ``weight`` and ``bias``.

    Args:
        state: name to tensor.
        config: a ``BertConfig``.

    Raises:
        InvalidInput: names or shapes differ; the message says which.
    """
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(config)
    wanted = model.state_dict()
    found = _plain(state)
    for tied, source in _TIED.items():
        if source in found and not found.setdefault(tied, found[source]).equal(found[source]):
            raise InvalidInput(f"{tied} differs from {source}, and in a BERT the two are one")
    if differing := differences(found, wanted):
        raise InvalidInput(
            f"no checkpoint of a BERT with a head for masked tokens: {differing}; expected are the "
            "names of BertForMaskedLM and the sizes of its config.json"
        )
    model.load_state_dict(found)
    model.tie_weights()
    return model.eval()


def warm_start(folder: Path | str, *, bow_weight: float | None = None) -> DupMAE:
    """A ``DupMAE`` whose encoder begins with the weights in a folder; the decoder is fresh.

    The folder holds a ``config.json`` and safetensors of any BERT: with a head for masked tokens
    (BERT itself, RetroMAE), or the body alone, as sentence encoders have it (all-MiniLM-L6-v2):
    then the head is drawn at random, its output tied to the word embeddings. Draws hang on
    ``torch.manual_seed``.

    Args:
        folder: a folder as transformers saves it.
        bow_weight: what the bag-of-words loss counts; default: as in the published code.

    Raises:
        NotFound: the folder holds no model.
        InvalidInput: it is no BERT, its weights are pickled, or names or shapes differ.
        BackendFailed: its files cannot be read.
    """
    encoder = read_masked_lm(folder, fresh_head=True)
    return DupMAE(encoder) if bow_weight is None else DupMAE(encoder, bow_weight=bow_weight)


def read_masked_lm(folder: Path | str, *, fresh_head: bool = False) -> Any:
    """The ``BertForMaskedLM`` of a folder; ``fresh_head``: a body alone is given a random head.

    Raises:
        NotFound, InvalidInput, BackendFailed: as ``warm_start`` says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig

    path = Path(folder)
    if not path.is_dir():
        raise NotFound(f"{path}: no such folder; expected one with config.json and *.safetensors")
    check_folder(str(path), path)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        state: dict[str, Any] = {}
        for file in sorted(path.glob("*.safetensors")):
            state |= load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BackendFailed(f"cannot read the model in {path}: {str(error).strip()}") from error
    if config.model_type != "bert":
        raise InvalidInput(f"{path}: a model of type {config.model_type!r}; DupMAE needs a 'bert'")
    state = _plain(state)
    if fresh_head and not any(name.startswith("cls.") for name in state):
        state = _fresh_head(config) | state
    return masked_lm(state, config)


def convert(checkpoint: Path | str, config: Path | str, out: Path | str) -> None:
    """Write a RetroMAE checkpoint, published as ``pytorch_model.bin``, as a folder of safetensors.

    Nothing but tensors is read of it. Tokenizer files beside ``config`` are copied.

    Args:
        checkpoint: the file ``pytorch_model.bin``.
        config: its ``config.json``.
        out: the folder to write, which must not exist or be empty.

    Raises:
        NotFound: a file is not there.
        InvalidInput: the checkpoint holds anything but tensors, names or shapes differ, or ``out``
            holds something.
    """
    import torch
    from transformers import BertConfig

    file, settings, folder = Path(checkpoint), Path(config), Path(out)
    for path in (file, settings):
        if not path.is_file():
            raise NotFound(f"{path}: no such file")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: is there already; name another folder")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch says it in many ways
        raise InvalidInput(
            f"{file}: cannot be read as tensors alone, and more is not read: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    masked_lm(state, BertConfig.from_json_file(settings)).save_pretrained(folder)
    for name in _TOKENIZER:
        if (settings.parent / name).is_file():
            shutil.copyfile(settings.parent / name, folder / name)


def save_cls_encoder(name: str | Path, out: Path | str) -> None:
    """Write a RetroMAE checkpoint as an encoder by the vector of [CLS], compared by dot products.

    That is how its authors encode with it. ``SentenceTransformer(out)`` and ``load_encoder(out)``
    open it; the published folder itself is a model for masked tokens, which both take for SPLADE.

    Args:
        name: a folder, or a name at Hugging Face, of any BERT; with safetensors or, as most of
            RetroMAE is published, pytorch_model.bin, of which nothing but tensors is read.
        out: the folder to write, which must not exist or be empty.

    Raises:
        NotFound, InvalidInput, BackendFailed: as ``warm_start`` says; or ``out`` holds something,
            or there is no tokenizer.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoConfig, AutoTokenizer, BertModel

    from rag.models.load import tensors_of
    from rag.models.place import folder_of, place_of

    place, folder = place_of(str(name)), Path(out)
    path = folder_of(place)
    if isinstance(place, str) and not any(path.glob("*.safetensors")):
        path = folder_of(place, pickled=True)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: is there already; name another folder")
    only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, **only)
            tokenizer = AutoTokenizer.from_pretrained(path, **only)
    except (OSError, ValueError, KeyError) as error:
        raise BackendFailed(f"cannot read the model in {path}: {str(error).strip()}") from error
    if config.model_type != "bert":
        raise InvalidInput(f"{path}: a model of type {config.model_type!r}; expected a 'bert'")
    body = BertModel(config, add_pooling_layer=False)
    state = {
        key.removeprefix("bert."): tensor
        for key, tensor in _plain(tensors_of(path)).items()
        if not key.startswith("cls.")
    }
    if differing := differences(state, body.state_dict()):
        raise InvalidInput(f"{path}: no BERT: {differing}")
    body.load_state_dict(state)
    with tempfile.TemporaryDirectory() as bare, quiet():
        body.save_pretrained(bare)
        tokenizer.save_pretrained(bare)
        first = Transformer(bare, max_seq_length=config.max_position_embeddings)
        chain = [first, Pooling(config.hidden_size, pooling_mode="cls")]
        made = SentenceTransformer(modules=chain, similarity_fn_name="dot", device="cpu")
        made.save(str(folder))


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How a state dict differs from the one wanted, in words; empty where it does not."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "not expected": unknown, "of another shape": shapes}
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    )


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights by the names that BertForMaskedLM has today, without what it leaves out."""
    bare = not any(name.startswith(("bert.", "cls.")) for name in state)
    named = {f"bert.{name}" if bare else name: tensor for name, tensor in state.items()}
    return {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in named.items()
        if not name.startswith(_LEFT)
    }


def _fresh_head(config: Any) -> dict[str, Any]:
    """The weights of a head for masked tokens as BERT draws them, but for the tied ones."""
    from transformers import BertForMaskedLM

    state = BertForMaskedLM(config).state_dict()
    return {name: w for name, w in state.items() if name.startswith("cls.") and name not in _TIED}
