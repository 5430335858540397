from __future__ import annotations

import json
from pathlib import Path

import pytest


def write_data(folder: Path, articles: int = 6, each: int = 3) -> Path:
    """A dataset in BEIR's layout: every article has a few documents, each with two questions."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for article in range(articles):
        for part in range(each):
            name = f"d{article}-{part}"
            text = f"Text {part} of article {article} says {article * each + part} is it."
            documents.append({"_id": name, "title": f"Article {article}", "text": text})
            for asked in range(2):
                query = f"q{article}-{part}-{asked}"
                words = "long " * (article + asked)
                queries.append({"_id": query, "text": f"What {words}says {name} of {asked}?"})
                qrels.append(f"{query}\t{name}\t1")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")
