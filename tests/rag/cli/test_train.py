"""``rag train`` at the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

from tests.rag.training import tiny_objective  # noqa: F401  it registers itself
from tests.rag.training.conftest import write_data

Rag = Callable[..., tuple[int, str, str]]

RECIPE = """\
kind: recipe
objective: tiny_line
model: none
data: ./data
hold_out: {by: article, share: 0.5}
train: {steps: 4, batch: 2}
"""


def test_train_says_what_came_out_and_then_has_nothing_to_do(rag: Rag, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    out = tmp_path / "out"
    code, said, err = rag("train", tmp_path / "mine.yaml", "--out", out)
    assert (code, err) == (0, "")
    assert f"{out}: the model" in said and "after" in said
    assert "| before | loss |" in (out / "training" / "report.md").read_text()
    assert "<svg" in (out / "training" / "loss.svg").read_text()
    code, said, _ = rag("train", tmp_path / "mine.yaml", "--out", out)
    assert code == 0 and "nothing to do" in said
    facts = json.loads(rag("train", tmp_path / "mine.yaml", "--out", out, "--json")[1])
    assert facts["unchanged"] and facts["steps"] == 4 and facts["scores"]
    write_data(tmp_path / "other", articles=4)
    again = ("train", tmp_path / "mine.yaml", "--data", tmp_path / "other")
    code, _, err = rag(*again, "--out", out)
    assert code == 2 and "another recipe, data or model" in err
    assert rag(*again, "--out", tmp_path / "two")[0] == 0


def test_mistakes_exit_2_with_one_message(rag: Rag, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("tiny_line", "tiny_lime"))
    for command, said in (
        (("train", "seal-xqad-cpu", "--out", "x"), "did you mean 'seal-xquad-cpu'?"),
        (("train", tmp_path / "mine.yaml", "--out", "x"), "mine.yaml:2:12: objective.tiny_lime:"),
        (("train", "no.yaml", "--out", "x"), "no.yaml: no such file"),
    ):
        code, out, err = rag(*command)
        assert (code, out) == (2, "") and said in err and "Traceback" not in err
    (tmp_path / "mine.yaml").write_text(RECIPE)
    code, _, err = rag("train", tmp_path / "mine.yaml", "--out", tmp_path / "x")
    assert code == 2 and "data: no such file or folder" in err
    assert rag("validate", "seal-xquad-cpu")[:2] == (0, "seal-xquad-cpu: good\n")
