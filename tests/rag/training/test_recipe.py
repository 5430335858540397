"""A recipe file: every mistake at its place, and nothing loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rag.errors import InvalidFile, NotFound
from rag.pipelines.load import problems
from rag.pipelines.schema import json_schema
from rag.training.recipe import load_recipe, shipped

GOOD = """\
kind: recipe
objective: {seal: {spans: 4}}
model: smollm2
data: ./wiki
hold_out: {by: article, share: 0.5}
train: {epochs: 1}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def test_a_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert (recipe.name, recipe.seed, recipe.train.batch) == ("mine", 0, 8)
    assert recipe.data is not None and recipe.data.path == str(tmp_path / "wiki")
    again = load_recipe(written(tmp_path, json.dumps(recipe.resolved())))
    assert again == recipe


def test_every_mistake_is_reported_at_its_place(tmp_path: Path) -> None:
    bad = """\
kind: recipe
objective: {seal: {spans: 0, titels: 3}}
model: ""
data: {path: wiki, spilt: train}
hold_out: {by: artikle, share: 0.5}
train: {epochs: 1, lerning_rate: 1}
"""
    found = [str(one) for one in problems(written(tmp_path, bad))]
    wanted = [
        ":2:27: objective.seal.spans: found 0, expected a number above 0",
        ":2:30: objective.seal.titels: unknown key; did you mean 'titles'?",
        ":3:8: model: found the text '', expected at least 1 character",
        ":4:20: data.spilt: unknown key; did you mean 'split'?",
        ":5:16: hold_out.by: found the text 'artikle', expected",
        ":6:20: train.lerning_rate: unknown key; did you mean 'learning_rate'?",
    ]
    assert len(found) == len(wanted), found
    for one, start in zip(found, wanted, strict=True):
        assert start in one


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("{seal: {spans: 4}}", "{seel: {}}"), "unknown objective 'seel'; did you mean 'seal'?"),
        (("{epochs: 1}", "{epochs: 1, steps: 2}"), "write either epochs or steps"),
        (("share: 0.5", "share: 0.5, ids: [a]"), "by: article takes ids or share"),
        (("by: article", "by: split"), "by: split takes split, and here are share"),
        (("hold_out: {by: article, share: 0.5}\n", ""), "add the key hold_out"),
        (("data: ./wiki\n", ""), "add the key data"),
        (("{seal: {spans: 4}}", "[seal]"), "an objective is a name"),
    ],
)
def test_what_does_not_fit_together_is_said(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(InvalidFile, match="mine.yaml:") as caught:
        load_recipe(written(tmp_path, GOOD.replace(*change)))
    assert said in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "kind: pipeline\nstages: [bm25]\n")
    with pytest.raises(InvalidFile, match="kind recipe is wanted here"):
        load_recipe(file)
    with pytest.raises(NotFound, match="no recipe 'seal-xqad-cpu' is shipped; did you mean"):
        load_recipe("seal-xqad-cpu")


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_good(name: str) -> None:
    assert load_recipe(name).description


def test_the_schema_knows_recipes() -> None:
    schema = json_schema("recipe")
    forms = schema["properties"]["objective"]["oneOf"]
    assert "seal" in forms[0]["enum"]
    assert {"learning_rate", "steps"} <= set(schema["$defs"]["Train"]["properties"])


def test_reading_a_recipe_loads_no_torch(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    program = (
        "import sys; from rag.training.recipe import load_recipe; "
        f"load_recipe({str(file)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
