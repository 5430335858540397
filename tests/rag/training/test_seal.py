"""SEAL learns: prompts that are shared change nothing, and what is learned is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")

from rag.errors import InvalidInput  # noqa: E402
from rag.retrievers.seal.model import SealModel  # noqa: E402
from rag.training.data import read  # noqa: E402
from rag.training.recipe import Data, HoldOut, Recipe, load_recipe  # noqa: E402
from rag.training.run import train  # noqa: E402
from rag.training.seal import LoRA, Seal  # noqa: E402
from rag.training.seal_batch import (  # noqa: E402
    Target,
    causal_batch,
    causal_logits,
    two_sided_batch,
    two_sided_logits,
    weighted_loss,
)
from rag.training.seal_spans import chances, drawn, overlaps, spans  # noqa: E402
from rag.training.seal_task import SealTask  # noqa: E402
from tests.retrievers.seal.tiny_seal import VOCABULARY, network, tokenizer  # noqa: E402

text = st.lists(st.sampled_from(["some", "words", "of", "a", "small", "world"]), max_size=20)


# Spans


@given(text, text, st.integers(3, 12))
@settings(max_examples=60, deadline=None)
def test_overlap_is_the_sum_over_runs_of_three_words(
    asked: list[str], told: list[str], words: int
) -> None:
    def runs(these: list[str]) -> list[str]:
        return [" ".join(these[i : i + 3]) for i in range(max(1, len(these) - 2))]

    def like(a: str, b: str) -> float:
        one, other = ({t[i : i + 3] for i in range(max(1, len(t) - 2))} for t in (a, b))
        return 2 * len(one & other) / max(1, len(one) + len(other))

    found = overlaps(" ".join(asked), " ".join(told), words)
    every = [told[i : i + words] for i in range(max(1, len(told) - words + 1))] if told else []
    naive = [
        sum(like(a, b) for a in runs(span)[: max(1, words - 2)] for b in runs(asked))
        if len(span) >= 3
        else None
        for span in every
    ]
    assert len(found) == len(naive) == len(spans(" ".join(told), words))
    for one, other in zip(found, naive, strict=True):
        assert other is None or one == pytest.approx(other)


def test_a_span_stands_in_its_passage_as_it_is_written() -> None:
    passage = "  A  first line,\nthen more (of it)."
    assert spans(passage, 3) == ["A  first line,", "first line,\nthen", "line,\nthen more",
                                 "then more (of", "more (of it)."]  # fmt: skip
    assert spans("two words", 10) == ["two words"]
    assert spans(" ", 3) == []


def test_spans_like_the_question_are_drawn_most() -> None:
    passage = "Nothing of note was here before . The tower in Paris was built by Eiffel in 1889 ."
    chance = chances(overlaps("Who built the tower in Paris?", passage, 5), 1.0)
    every = spans(passage, 5)
    assert "tower in Paris" in every[int(chance.argmax())]
    assert chance.sum() == pytest.approx(1)
    often = drawn(every, chance, 200, np.random.default_rng(0))
    assert sum(often.values()) == 200
    assert max(often, key=lambda one: often[one]) == every[int(chance.argmax())]


# Batches


def prompts(model: SealModel, questions: Sequence[str]) -> list[list[list[int]]]:
    return [model.prompts(question, titles=True) for question in questions]


def groups_for(model: SealModel) -> list[tuple[list[list[int]], list[Target]]]:
    """Three questions; some targets begin alike, one stands twice, one is one token long."""
    first, second, third = prompts(model, ["w1 w2 w3 ?", "w9 ?", "w1 w2 w4 w5 w6 w7 ?"])
    ids = model.encode(["w1 w2 w3 w4", "w1 w2 w5", "w7", "w8 w8 w8 w8 w8", "w3 w1"])
    return [
        (first, [Target(0, ids[0], 2), Target(0, ids[1], 1), Target(1, ids[4], 3)]),
        (second, [Target(0, ids[2], 1), Target(0, ids[2], 1)]),
        (third, [Target(1, ids[3], 1), Target(0, ids[3], 4)]),
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bart", "t5"])
def test_a_shared_prompt_gives_the_loss_of_rows_of_their_own(kind: str) -> None:
    net, tokens = network(kind), tokenizer()
    model = SealModel(kind, net, tokens)
    groups = groups_for(model)
    total = weight = torch.zeros(())
    for its, targets in groups:
        for prompt, ids, often in targets:
            if net.config.is_encoder_decoder:
                out = net(
                    input_ids=torch.tensor([its[prompt]]),
                    decoder_input_ids=torch.tensor(
                        [[net.config.decoder_start_token_id, *ids[:-1]]]
                    ),
                ).logits[0]
            else:
                whole = torch.tensor([[*its[prompt], *ids[:-1]]])
                out = net(input_ids=whole).logits[0, len(its[prompt]) - 1 :]
            each = torch.nn.functional.cross_entropy(
                out, torch.tensor(ids), reduction="sum", label_smoothing=0.1
            )
            total, weight = total + often * each, weight + often * len(ids)
    if net.config.is_encoder_decoder:
        start = net.config.decoder_start_token_id
        batch = two_sided_batch(groups, pad=0, start=start)
        found = weighted_loss(two_sided_logits(net, batch), batch, 0.1)
    else:
        batch = causal_batch(groups)
        found = weighted_loss(causal_logits(net, batch), batch, 0.1)
    torch.testing.assert_close(found, total / weight, rtol=1e-4, atol=1e-4)
    one, other = (torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
                  for loss in (found, total / weight))  # fmt: skip
    for a, b in zip(one, other, strict=True):
        if b is not None:
            assert (a - b).norm() <= 1e-3 * b.norm() + 1e-5


def test_a_prompt_is_computed_once() -> None:
    model = SealModel("llama", network("llama"), tokenizer())
    (body, title), *_ = prompts(model, ["w1 w2 w3 ?"])
    ids = model.encode([f"w{n} w1 w2" for n in range(8)])
    batch = causal_batch([([body, title], [Target(0, each, 1) for each in ids])])
    assert batch["input_ids"].shape == (1, len(body) + 8 * 2)  # a last token predicts nothing


# The task


def saved(kind: str, folder: Path) -> Path:
    network(kind, size=len(VOCABULARY)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def words_data(folder: Path) -> Path:
    """Articles of words; a question is a run of the words of its passage."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    corpus, queries, qrels = [], [], []
    for article in range(6):
        for part in range(4):
            name = f"d{article}-{part}"
            words = [f"w{n}" for n in draw.permutation(40)[:14]]
            corpus.append({"_id": name, "title": f"w{article}", "text": " ".join(words)})
            for at in (0, 5):
                queries.append({"_id": f"q{name}-{at}", "text": " ".join(words[at : at + 4])})
                qrels.append(f"q{name}-{at}\t{name}\t1")
    for file, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n")
    return folder


def task_of(folder: Path, model: Path, **how: Any) -> SealTask:
    needs = frozenset({"documents", "questions"})
    split = read(Data(path=str(folder)), HoldOut(by="document", share=0.25), needs)
    return SealTask(Seal(words=4, beam=3, **how), str(model), split, 0)


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_rows_are_of_the_training_side_alone(kind: str, tmp_path: Path) -> None:
    task = task_of(words_data(tmp_path / "d"), saved(kind, tmp_path / "m"), unsupervised=2)
    split = task._split
    assert {name for name, _, _ in task.rows} == set(split.train.questions)
    batch = task.collate(task.rows[:3], np.random.default_rng(0))
    same = task.collate(task.rows[:3], np.random.default_rng(0))
    assert all(torch.equal(batch[name], same[name]) for name in batch)
    loss = task.loss(task.model, batch)
    loss.backward()
    assert loss > 0 and all(p.grad is not None for p in task.model.parameters())


def test_what_cannot_be_learned_from_is_said(tmp_path: Path) -> None:
    folder = words_data(tmp_path / "d")
    with pytest.raises(InvalidInput, match="positions and a mask"):
        task_of(folder, saved("bloom", tmp_path / "bloom"))
    long = json.dumps({"_id": "qd0-0-0", "text": "w1 " * 100})
    lines = [long if '"qd0-0-0"' in one else one for one in (folder / "queries.jsonl").open()]
    (folder / "queries.jsonl").write_text("\n".join(line.strip() for line in lines) + "\n")
    every = task_of(folder, saved("llama", tmp_path / "llama"))
    assert "qd0-0-0" not in {name for name, _, _ in every.rows}


def recipe(tmp_path: Path, kind: str, objective: str, steps: int = 40) -> Recipe:
    if not (tmp_path / "d").exists():
        words_data(tmp_path / "d")
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"kind: recipe\nobjective: {objective}\nmodel: {saved(kind, tmp_path / kind)}\n"
        f"data: {tmp_path / 'd'}\nhold_out: {{by: document, share: 0.25, sample: 6}}\n"
        f"train: {{steps: {steps}, batch: 4, learning_rate: 1e-2, save_every: 10}}\n"
    )
    return load_recipe(file)


@pytest.mark.parametrize(("kind", "lora"), [("llama", "{rank: 2, dropout: 0.1}"), ("bart", "null")])
def test_a_recipe_gives_a_model_that_seal_opens(tmp_path: Path, kind: str, lora: str) -> None:
    plan = recipe(tmp_path, kind, f"{{seal: {{words: 4, spans: 3, beam: 3, lora: {lora}}}}}")
    done = train(plan, tmp_path / "out")
    opened = SealModel.load(str(done.out))
    assert opened.fingerprint == SealModel.load(str(tmp_path / kind)).fingerprint
    loss = [value for _, value in done.report["loss"]]
    assert np.mean(loss[-5:]) < np.mean(loss[:5])
    measures = {(row["row"], row["measure"]) for row in done.report["scores"]}
    assert {("before", "nDCG@10 beam keys"), ("after", "nDCG@10 beam keys"),
            ("BM25", "nDCG@10")} <= measures  # fmt: skip


def test_low_rank_matrices_go_on_and_are_merged(tmp_path: Path) -> None:
    plan = recipe(
        tmp_path, "llama", "{seal: {words: 4, beam: 2, lora: {rank: 2, dropout: 0.1}}}", 12
    )
    whole = train(plan, tmp_path / "whole")

    def stop(what: str, done: int, total: int | None) -> None:
        if what == "train" and done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "out", progress=stop)
    kept = tmp_path / "out" / "training" / "checkpoints" / "checkpoint-10" / "weights.safetensors"
    from safetensors.torch import load_file

    assert all("lora" in name for name in load_file(kept))
    again = train(plan, tmp_path / "out")
    one, other = (load_file(d.out / "model.safetensors") for d in (whole, again))
    assert one.keys() == other.keys() and not any("lora" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_low_rank_matrices_leave_the_others_alone(tmp_path: Path) -> None:
    task = task_of(words_data(tmp_path / "d"), saved("llama", tmp_path / "m"), lora=LoRA(rank=2))
    learned = {n for n, p in task.model.named_parameters() if p.requires_grad}
    assert learned and all("lora" in name for name in learned)


def test_settings_for_a_gpu_are_passed_on(tmp_path: Path) -> None:
    plan = recipe(tmp_path, "llama", "{seal: {words: 4, beam: 2}}", 2)
    how = plan.train.model_copy(update={"precision": "bf16", "gradient_checkpointing": True})
    done = train(plan.model_copy(update={"train": how}), tmp_path / "out")
    assert SealModel.load(str(done.out)).vocabulary == len(VOCABULARY)
