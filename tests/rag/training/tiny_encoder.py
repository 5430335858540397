"""A tiny BERT in a folder, a data set of its few words, and recipes that train on them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.rag.encoders import tiny_bert

WORDS = tiny_bert.WORDS


def model_folder(folder: Path, **settings: Any) -> Path:
    """A BERT without a head, as sentence encoders have it."""
    given = {"hidden_dropout_prob": 0.1, "initializer_range": 0.1} | settings
    tiny_bert.bert("BertModel", **given).save_pretrained(folder)
    tiny_bert.tokenizer().save_pretrained(folder)
    return folder


def data_folder(folder: Path, documents: int = 24) -> Path:
    """Documents of three sentences, each with a title; two questions of its words for each."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    rows, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(documents):
        words = [draw.choice(WORDS) for _ in range(12)]
        text = " ".join([*words[:4], ".", *words[4:8], ".", *words[8:], "."])
        title = " ".join([words[0], words[5], WORDS[number % len(WORDS)]])
        rows.append({"_id": f"d{number}", "title": title, "text": text})
        for turn in range(2):
            asked = " ".join([words[3 + turn], words[7 + turn], "of", words[10], *("." * turn)])
            queries.append({"_id": f"q{number}-{turn}", "text": f"{asked} the {number}-{turn}"})
            qrels.append(f"q{number}-{turn}\td{number}\t1")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n")
    return folder


def recipe(folder: Path, objective: Any, data: Path, model: Path, **changes: Any) -> Any:
    from rag.training import load_recipe

    train = {"steps": 4, "batch": 4, "learning_rate": 1e-2, "save_every": 2}
    given = {
        "kind": "recipe",
        "objective": objective,
        "model": str(model),
        "data": str(data),
        "hold_out": {"by": "question", "share": 0.25},
        "train": train,
        "seed": 1,
    } | changes
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(given))  # JSON is YAML
    return load_recipe(file)


def cross_encoder(folder: Path) -> Path:
    """A cross-encoder of random weights, as sentence-transformers saves it."""
    tiny_bert.bert("BertForSequenceClassification", num_labels=1).save_pretrained(folder)
    tiny_bert.tokenizer().save_pretrained(folder)
    return folder


def negatives_file(file: Path, data: Path) -> Path:
    """What ``rag mine --scores`` would write of ``data_folder``'s questions: others' documents."""
    questions = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    documents = [json.loads(line)["_id"] for line in (data / "corpus.jsonl").open()]
    draw = random.Random(1)
    with file.open("w") as out:
        for question in questions:
            own = f"d{question['_id'][1:].split('-')[0]}"
            others = draw.sample([name for name in documents if name != own], 5)
            row = {"id": question["_id"], "question": question["text"], "positives": [own]}
            row |= {"negatives": others, "positive_scores": [2.0]}
            row |= {"negative_scores": [draw.random() for _ in others], "error": None}
            out.write(json.dumps(row) + "\n")
    return file


def goes_on(given: Any, folder: Path) -> None:
    """A training that ends after its third update and goes on gives what one in one go gives."""
    import torch

    from rag.training.run import train

    def stops(what: str, done: int, total: int | None) -> None:
        if what.startswith("train") and done == 3:
            raise KeyboardInterrupt

    whole = train(given, folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(given, folder / "parts", progress=stops)
    assert [path.name for path in (folder / "parts" / "training" / "checkpoints").iterdir()] == [
        "checkpoint-2"
    ]
    parts = train(given, folder / "parts")
    mine, theirs = weights(whole.out), weights(parts.out)
    assert mine and mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert whole.report["scores"] == parts.report["scores"]


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of a model's folder."""
    from safetensors.torch import load_file

    return {
        f"{file.parent.name}/{name}" if file.parent != folder else name: tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
