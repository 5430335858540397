"""An opened VDR model: what ``load_encoder`` gives for its folder."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rag.encoders.batches import Models, batches, check, devices_of, tokens_at_once
from rag.encoders.on_cpu import unpad
from rag.encoders.vdr.bags import JOINT, Bags, tokenizer_of, tower_settings
from rag.encoders.vdr.checkpoint import TOWERS, load
from rag.encoders.vdr.views import top_mask
from rag.errors import InvalidInput


class TermScore(NamedTuple):
    """What one term adds to the score of a passage."""

    term: str
    question: float
    passage: float
    score: float
    """The product of the two."""


class VDREncoder:
    """Texts to weights of vocabulary terms; may be shared by threads, which take turns.

    name: what errors call it.
    dimensions: V, the whole vocabulary; the columns of special tokens are 0.
    hash: sha256 over weights, tokenizer and settings.
    bag_hash: the hash of its ``Bags``.
    joint: what stands between title and text of a passage.
    towers: ``encoder_q`` and ``encoder_p``, which may be one and the same.
    prompts: what stands before queries and documents, empty unless sentence-transformers saved one.
    """

    kind: Literal["vocabulary"] = "vocabulary"
    similarity: Literal["dot"] = "dot"
    joint = JOINT

    def __init__(
        self, name: str, towers: dict[str, Any], tokenizer: Any, device: str | Sequence[str]
    ) -> None:
        """Hold towers and their tokenizer on devices, as ``load_encoder`` takes them."""
        self.name, self._tokenizer, self._tokenizing = name, tokenizer, threading.Lock()
        places = devices_of("cpu" if device == "openvino" else device)
        self._tokens = tokens_at_once("openvino" if device == "openvino" else places[0])
        copies = [towers, *(copy.deepcopy(towers) for _ in places[1:])]
        for mine, place in zip(copies, places, strict=True):
            for model in {id(model): model for model in mine.values()}.values():
                model.to(place).eval()
                if device == "openvino":
                    from rag.encoders.openvino_model import convert

                    convert(name, model.bert_model, tokenizer)
                elif place == "cpu":
                    unpad(model.bert_model)
        self.towers = dict(towers)
        self.prompts = {"query": "", "document": ""}
        self._copies = Models(copies)
        passages = self.towers["encoder_p"].config
        self.dimensions = int(passages.vocab_size)
        self.bags = Bags(
            tokenizer,
            dimensions=self.dimensions,
            shift=passages.shift_vocab_num,
            max_len=passages.max_len,
        )
        self.bag_hash = self.bags.hash
        self.hash = self._hash()

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        name: str | None = None,
        device: str | Sequence[str] = "cpu",
    ) -> VDREncoder:
        """The model in a folder; raises as ``checkpoint`` and ``tokenizer_of`` do."""
        path = Path(folder)
        tokenizer = tokenizer_of(path, tower_settings(path)["encoder_p"])
        towers = load(path)
        made = cls(name or str(folder), towers, tokenizer, device)
        file = path / "config_sentence_transformers.json"
        if file.is_file():
            made.prompts |= _prompts(file)
        return made

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"] = "query") -> Any:
        """The vectors of texts, cut to the top k terms of their tower, in their order.

        A text's vector does not depend on the others but for the rounding of float32.

        Args:
            texts: any number, also none.
            kind: ``query`` or ``document``: which tower.

        Returns:
            (n, dimensions) scipy CSR array of float32.

        Raises:
            InvalidInput: another kind, or a text that no tokenizer reads (an unpaired surrogate).
        """
        from scipy import sparse

        check(texts, kind)
        if self.prompts[kind]:
            texts = [self.prompts[kind] + text for text in texts]
        tower = TOWERS[kind == "document"]
        longest = self.towers[tower].config.max_len

        def lengths(some: Sequence[str]) -> list[int]:
            return [len(ids) for ids in self._ids(some, longest)]

        def vectors(towers: Any, places: NDArray[np.int64]) -> Any:
            some = [texts[at] for at in places.tolist()]
            with torch.inference_mode():
                return sparse.csr_array(self._vectors(towers[tower], self._ids(some, longest)))

        order = list(batches(texts, lengths, self._tokens))
        parts = self._copies.map(vectors, order)
        if not parts:
            return sparse.csr_array((0, self.dimensions), dtype=np.float32)
        back = np.argsort(np.concatenate(order))
        return sparse.csr_array(sparse.vstack(parts, format="csr")[back])

    def explain(self, question: str, passage: str) -> list[TermScore]:
        """The terms that question and passage share, and what each adds to the score; most first.

        Their scores sum to the product of the two vectors.
        """
        ours = self.encode([question], "query").toarray()[0]
        theirs = self.encode([passage], "document").toarray()[0]
        products = ours.astype(np.float64) * theirs
        best = [at for at in np.argsort(-products, kind="stable").tolist() if products[at] > 0]
        return [
            TermScore(term, float(ours[at]), float(theirs[at]), float(products[at]))
            for term, at in zip(self.tokenizer_tokens(best), best, strict=True)
        ]

    def tokenizer_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens that columns stand for."""
        found: list[str] = self._tokenizer.convert_ids_to_tokens(list(map(int, ids)))
        return found

    def save(self, folder: Path | str) -> None:
        """Write a folder of the published form, in safetensors, with the tokenizer."""
        from safetensors.torch import save_file

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        models = {id(model): (tower, model) for tower, model in reversed(self.towers.items())}
        shared = len(models) == 1
        state = {
            f"{tower}.{key}": tensor.detach().cpu().contiguous()
            for tower, model in models.values()
            for key, tensor in model.state_dict().items()
        }
        save_file(state, out / "model.safetensors")
        blocks = {
            tower: {
                "type": "vdr",
                "pooling": "max",
                "norm": False,
                **{name: getattr(model.config, name) for name in _KEPT},
            }
            for tower, model in self.towers.items()
        }
        own = self.towers["encoder_p"].config
        bert = {name: getattr(own, name) for name in _NO_SHAPE}
        config = {**blocks, "shared_encoder": shared, "bert": bert}
        text = json.dumps(config, sort_keys=True, indent=1)
        (out / "config.json").write_text(text + "\n", encoding="utf-8")
        self._tokenizer.save_pretrained(out)

    def sentence_transformer(self, tower: Literal["encoder_q", "encoder_p"]) -> Any:
        """A copy of one tower as a ``SparseEncoder``, to be trained or saved.

        What it saves is loaded by sentence-transformers without ``trust_remote_code`` once
        ``rag.encoders.vdr`` is imported, and by ``load_encoder``.
        """
        from sentence_transformers import SparseEncoder
        from sentence_transformers.base.modules import Transformer

        model = self.towers[tower]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
            module = Transformer(
                folder,
                modality_config={
                    "text": {"method": "forward", "method_output_name": "pooler_output"}
                },
                module_output_name="sentence_embedding",
                max_seq_length=model.config.max_len,
            )
        topk = model.config.topk
        return SparseEncoder(
            modules=[module],
            device=str(model.device),
            max_active_dims=topk if topk >= 0 else None,
            similarity_fn_name="dot",
        )

    def _ids(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        with self._tokenizing:  # tokenizers are not made for several threads
            made = self._tokenizer(list(texts), truncation=True, max_length=longest)
        found: list[list[int]] = made["input_ids"]
        return found

    def _vectors(self, model: Any, ids: list[list[int]]) -> Any:
        """The vectors of one batch, (n, V) float32 numpy, 0 beyond the top k."""
        length = max(len(one) for one in ids)
        padded = torch.zeros(len(ids), length, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for row, one in enumerate(ids):
            padded[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        device = model.ln.weight.device
        on_cuda = device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_cuda else nullcontext():
            vectors = model(padded.to(device), mask.to(device)).pooler_output.float()
        return (vectors * top_mask(vectors, model.config.topk)).cpu().numpy()

    def _hash(self) -> str:
        whole = hashlib.sha256(self.bags.hash.encode())
        for tower, model in self.towers.items():
            own = {name: getattr(model.config, name) for name in _KEPT}
            whole.update(json.dumps([tower, own], sort_keys=True).encode())
            for key, tensor in model.state_dict().items():
                whole.update(key.encode())
                whole.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()


def _prompts(file: Path) -> dict[str, str]:
    """The prompts in ``config_sentence_transformers.json``."""
    try:
        saved = json.loads(file.read_text("utf-8"))
        prompts, default = saved.get("prompts") or {}, saved.get("default_prompt_name")
        whole = str(prompts.get(default) or "")
        return {kind: str(prompts.get(kind) or whole) for kind in ("query", "document")}
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInput(f"{file}: holds no settings: {error}") from error


_KEPT = ("shift_vocab_num", "topk", "max_len", "vocab_size")
_NO_SHAPE = ("num_attention_heads", "hidden_act", "layer_norm_eps")
"""Settings of a BERT that no weight's shape tells, and that published folders leave out."""
