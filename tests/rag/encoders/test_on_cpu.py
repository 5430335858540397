"""What is done to be quick: the values stay, whatever the model, the runtime and the devices."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from rag.encoders import load_encoder  # noqa: E402
from rag.encoders.batches import Models, batches, devices_of, tokens_at_once  # noqa: E402
from rag.encoders.on_cpu import PREPACKED, UNPADDED, quicken, unpad  # noqa: E402
from rag.errors import InvalidInput, MissingExtra  # noqa: E402
from tests.rag.encoders.test_load_encoder import texts, tiny  # noqa: E402


def model(kind: str, head: str | None = None) -> Any:
    """A model of random weights of one of the types, of two layers."""
    cls = transformers.MODEL_FOR_MASKED_LM_MAPPING if head else transformers.MODEL_MAPPING
    names: dict[str, Any] = {
        "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "max_position_embeddings": 50, "pad_token_id": 1,
    }  # fmt: skip
    if kind == "distilbert":
        names |= {"dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 3}
    if kind == "modernbert":
        names |= {f"{name}_token_id": 2 for name in ("bos", "eos", "cls", "sep")}
    config = transformers.CONFIG_MAPPING[kind](**names)
    torch.manual_seed(0)
    made = cls[type(config)](config).eval()
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    return made


def tokens(lengths: list[int]) -> dict[str, Any]:
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(2, 60, mask.shape) * mask + 1 - mask, "attention_mask": mask}


@pytest.mark.parametrize("head", [None, "masked"])
@pytest.mark.parametrize("kind", sorted(PREPACKED))
@torch.inference_mode()
def test_each_type_of_model_keeps_its_values(kind: str, head: str | None) -> None:
    plain, quick = model(kind, head), model(kind, head)
    quicken(quick)
    for lengths in ([7, 7, 3, 1], [9], [2, 30, 5]):
        given = tokens(lengths)
        real = given["attention_mask"].bool()
        expected, found = plain(**given)[0], quick(**given)[0]
        assert torch.allclose(found[real], expected[real], rtol=1e-4, atol=1e-4)
        if kind in UNPADDED and len(lengths) > 1:
            assert (found[~real] == 0).all()
    left = {name: x.flip(1) for name, x in tokens([4, 9]).items()}
    real = left["attention_mask"].bool()
    assert torch.allclose(quick(**left)[0][real], plain(**left)[0][real], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_types_of_tokens_are_kept_and_padding_costs_nothing() -> None:
    plain, quick = model("bert"), model("bert")
    unpad(quick)
    seen = []
    quick.encoder.layer[0].intermediate.register_forward_hook(
        lambda module, given, out: seen.append(tuple(given[0].shape))
    )
    given = tokens([8, 2, 1])
    given["token_type_ids"] = torch.randint(2, given["input_ids"].shape) * given["attention_mask"]
    real = given["attention_mask"].bool()
    assert torch.allclose(quick(**given)[0][real], plain(**given)[0][real], atol=1e-4)
    assert seen == [(1, 11, 24)]


def test_batches_hold_all_texts_within_their_tokens() -> None:
    sizes = np.random.default_rng(0).integers(1, 60, 500).tolist() + [300]
    asked = [str(number) for number in range(len(sizes))]
    found = list(batches(asked, lambda some: [sizes[int(text)] for text in some], 100))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(sizes[at] for at in batch) <= 100
    longest = [max(sizes[at] for at in batch) for batch in found]
    assert longest == sorted(longest, reverse=True)
    assert tokens_at_once("cuda:1") > tokens_at_once("cpu")


def test_what_devices_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of("cpu") == ["cpu"]
    assert devices_of(["cpu", "cpu"]) == ["cpu", "cpu"]
    with pytest.raises(InvalidInput, match="empty list"):
        devices_of([])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:all", ["cpu", "cuda:1"]):
        with pytest.raises(InvalidInput, match="finds none on this machine"):
            devices_of(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_of("cuda:all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices_of("auto") == ["cuda"]


def test_batches_are_shared_by_devices_and_a_failure_is_told() -> None:
    both = threading.Barrier(2, timeout=20)  # passes only if two work at a time

    def work(model: str, item: int) -> tuple[str, int]:
        if item < 0:
            raise InvalidInput("the item")
        both.wait()
        return model, item

    models = Models(["a", "b"])
    found = models.map(work, range(4))
    assert [item for _, item in found] == [0, 1, 2, 3]
    assert {name for name, _ in found} == {"a", "b"}
    with pytest.raises(InvalidInput, match="the item"):
        models.map(work, [-1, -1])
    assert len(models.map(lambda model, item: model, [1])) == 1


@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM"])
def test_several_devices_give_what_one_gives(head: str, tmp_path: Path) -> None:
    folder = str(tiny(tmp_path / head, head))
    asked = texts(120)
    one = load_encoder(folder, device="cpu").encode(asked, kind="document")
    two = load_encoder(folder, device=["cpu", "cpu"])
    two._tokens = 64
    both = two.encode(asked, kind="document")
    for left, right in ((one, both), (one[:0], two.encode([]))):
        if head == "BertForMaskedLM":
            left, right = left.toarray(), right.toarray()
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_gpu_computes_in_bfloat16_and_compiles_for_many_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as can be told without one: a model that says it is there."""
    encoder = load_encoder(str(tiny(tmp_path)), device="cpu")
    (held,) = encoder._models.all
    seen: list[Any] = []
    monkeypatch.setattr(
        type(held), "device", property(lambda self: torch.device("cuda")), raising=False
    )
    monkeypatch.setattr(held[0].model, "compile", lambda **given: seen.append(given))

    def autocast(*given: Any) -> Any:
        seen.append(given)
        return torch.inference_mode()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(held, "encode_query", lambda texts, **_: torch.zeros(len(texts), 16))
    monkeypatch.setattr("rag.encoders.encode.COMPILED_FROM", 4)
    encoder.encode(["a"] * 3)
    assert seen == [("cuda", torch.bfloat16)]
    encoder.encode(["a"] * 4)
    encoder.encode(["a"] * 4)
    assert seen[1:] == [{"dynamic": True}, ("cuda", torch.bfloat16), ("cuda", torch.bfloat16)]


@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM"])
def test_openvino_gives_what_torch_gives(head: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = str(tiny(tmp_path / head, head))
    asked = texts(60)
    plain = load_encoder(folder, device="cpu").encode(asked)
    encoder = load_encoder(folder, device="openvino")
    found = encoder.encode(asked)
    if head == "BertForMaskedLM":
        plain, found = plain.toarray(), found.toarray()
    np.testing.assert_allclose(found, plain, atol=1e-4)
    assert encoder.hash == load_encoder(folder, device="cpu").hash


def test_openvino_is_refused_where_its_values_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from rag.encoders import openvino_model

    folder = str(tiny(tmp_path))
    monkeypatch.setattr(openvino_model, "LEAST_COSINE", 1.1)
    with pytest.raises(InvalidInput, match="other values than torch"):
        load_encoder(folder, device="openvino")

    def broken(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_model._Plain, "forward", broken)
    with pytest.raises(InvalidInput, match="cannot convert the encoder .*; use device cpu"):
        load_encoder(folder, device="openvino")
    monkeypatch.setattr(
        "rag.encoders.load.find_spec", lambda name: None if name == "openvino" else name
    )
    with pytest.raises(MissingExtra, match="openvino"):
        load_encoder(folder, device="openvino")
