"""Checkpoints in fairseq's format with random weights: their names, shapes and distributions."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag.errors import Damaged, InvalidInput, NotFound

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rag.retrievers.seal.fairseq import convert, read, renamed, shapes_of  # noqa: E402
from rag.retrievers.seal.model import SealModel  # noqa: E402
from tests.retrievers.seal.tiny_seal import VOCABULARY, network, tokenizer  # noqa: E402


def names(layers: int, width: int, inner: int, tokens: int, positions: int) -> Iterator[Any]:
    """The names and shapes of a BART as fairseq writes it, version and dtype holders included."""
    for side in ("encoder", "decoder"):
        yield f"{side}.version", (1,)
        yield f"{side}.embed_tokens.weight", (tokens, width)
        yield f"{side}.embed_positions._float_tensor", (1,)
        yield f"{side}.embed_positions.weight", (positions, width)
        yield f"{side}.layernorm_embedding.weight", (width,)
        yield f"{side}.layernorm_embedding.bias", (width,)
        for layer in range(layers):
            at = f"{side}.layers.{layer}"
            for attention in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    yield f"{at}.{attention}.{part}.weight", (width, width)
                    yield f"{at}.{attention}.{part}.bias", (width,)
                yield f"{at}.{attention}_layer_norm.weight", (width,)
                yield f"{at}.{attention}_layer_norm.bias", (width,)
            yield f"{at}.fc1.weight", (inner, width)
            yield f"{at}.fc1.bias", (inner,)
            yield f"{at}.fc2.weight", (width, inner)
            yield f"{at}.fc2.bias", (width,)
            yield f"{at}.final_layer_norm.weight", (width,)
            yield f"{at}.final_layer_norm.bias", (width,)
    yield "decoder.output_projection.weight", (tokens, width)


def small() -> dict[str, Any]:
    """Random weights for the BART of ``network("bart")``."""
    draw = torch.Generator().manual_seed(3)
    size = len(VOCABULARY) - 1
    made = {
        name: torch.randn(shape, generator=draw) * 0.3 for name, shape in names(2, 32, 48, size, 66)
    }
    made["encoder.embed_tokens.weight"] = made["decoder.embed_tokens.weight"]
    made["decoder.output_projection.weight"] = made["decoder.embed_tokens.weight"]
    return made


def base(folder: Path) -> Path:
    network("bart").config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_checkpoint_of_bart_large_has_every_weight_and_no_other() -> None:
    config = transformers.BartConfig(
        vocab_size=50265,
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        max_position_embeddings=1024,
    )
    given = dict(names(12, 1024, 4096, 50264, 1026))
    weights = {name: torch.empty(shape, device="meta") for name, shape in given.items()}
    found = renamed(weights, config, shapes_of(config))
    assert found["model.shared.weight"].shape == (50265, 1024)
    assert sum(each.numel() for name, each in found.items() if "embed_tokens" not in name) == (
        406_291_456 + 50265 + 50265 * 1024
    )
    forbidden = torch.isinf(found["final_logits_bias"][0]).nonzero().flatten().tolist()
    assert forbidden == [0, 1, 50264]


def test_a_converted_checkpoint_computes_what_transformers_does(tmp_path: Path) -> None:
    weights = small()
    torch.save(
        {"args": argparse.Namespace(arch="bart_large"), "model": weights, "extra_state": {"n": 1}},
        tmp_path / "seal.pt",
    )
    folder = convert(tmp_path / "seal.pt", base(tmp_path / "base"), tmp_path / "new")
    model = SealModel.load(str(folder), device="cpu")
    same = network("bart", seed=9)
    with torch.no_grad():
        for name, tensor in same.model.state_dict().items():
            given = weights.get("decoder.embed_tokens.weight" if name == "shared.weight" else name)
            assert given is not None
            tensor[: len(given)] = given
            tensor[len(given) :] = 0
    prompt = model.prompts("w1 w2 w3", titles=False)[0]
    with torch.no_grad():
        logits = same(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[2, 14, 15]])
        ).logits[0, -1]
    logits[[0, 1, len(VOCABULARY) - 1]] = -torch.inf
    hypotheses = model.open([[prompt]])
    for token in (14, 15):
        found, _ = hypotheses.grow(torch.tensor([0]).numpy(), torch.tensor([token]).numpy(), [None])
    assert torch.allclose(found[0], logits, atol=1e-4)
    assert model.family.name == "bart" and (folder / "model.safetensors").is_file()
    with pytest.raises(InvalidInput, match="is there already"):
        convert(tmp_path / "seal.pt", tmp_path / "base", folder)


def test_keys_that_differ_are_named(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")

    def refused(weights: dict[str, Any]) -> str:
        torch.save({"model": weights}, tmp_path / "seal.pt")
        with pytest.raises(InvalidInput) as caught:
            convert(tmp_path / "seal.pt", folder, tmp_path / "new")
        assert not list(tmp_path.glob("new*"))
        return str(caught.value)

    less = small()
    del less["decoder.layers.1.fc2.bias"]
    assert "1 are missing, such as model.decoder.layers.1.fc2.bias;" in refused(less)
    more = {**small(), "decoder.layers.2.fc2.bias": torch.zeros(32)}
    assert "1 are not known, such as model.decoder.layers.2.fc2.bias;" in refused(more)
    other = {**small(), "encoder.layers.0.fc1.bias": torch.zeros(49)}
    assert "model.encoder.layers.0.fc1.bias has the shape (49,), expected (48,)" in refused(other)
    assert "expected a checkpoint of fairseq" in refused({"a": 1})


class Bad:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seal.pt"
    torch.save({"model": small(), "cfg": Bad()}, path)
    with pytest.raises(InvalidInput, match="could run code, so it is not loaded"):
        read(path)
    path.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(InvalidInput):
        read(path)
    assert capsys.readouterr().out == ""
    torch.save({"model": small()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Damaged, match="is no whole checkpoint"):
        read(path)
    with pytest.raises(NotFound, match="no checkpoint"):
        read(tmp_path / "none.pt")
    with pytest.raises(NotFound, match="holds no config.json"):
        convert(path, tmp_path, tmp_path / "new")
