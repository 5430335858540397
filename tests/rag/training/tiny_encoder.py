"""A tiny BERT in a folder, a data set of its few words, and recipes that train on them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.rag.encoders import tiny_bert

WORDS = tiny_bert.WORDS
NUMBERS = 6


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


def recipe(folder: Path, objective: str, data: Path, model: Path, **changes: Any) -> Any:
    from rag.training import load_recipe

    train = {"steps": NUMBERS, "batch": 4, "learning_rate": 1e-2, "save_every": 2}
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
