"""Names of stages, backends and index types, and the plugins that bring more."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rag import Columns, Pipeline, Stage, registry
from rag.errors import InvalidInput


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; the modules in it are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_defined", dict(registry._defined))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


def install(site: Path, distribution: str, code: str, *points: str, group: str = "stages") -> None:
    """A distribution with one module, plugin_NAME, and its entry points of one group."""
    (site / f"plugin_{distribution}.py").write_text(code)
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{point} = plugin_{distribution}:Made" for point in points]
    (info / "entry_points.txt").write_text("\n".join([f"[rag.{group}]", *lines]))


PLUGIN = """
from rag import Stage
class Made(Stage, name="made_test"):
    \"\"\"A stage of a plugin.\"\"\"
"""


def test_built_in_names_are_there() -> None:
    assert set(registry.names("stages")) >= {"bm25", "extract", "generate", "reorder"}
    assert registry.names("indexes") == sorted(registry.names("indexes"))


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in registry.BUILT_IN for name in registry.BUILT_IN[group]],
)
def test_every_built_in_name_leads_to_a_class_of_that_name(
    group: registry.Group, name: str
) -> None:
    found = registry.find(group, name)
    assert f"{found.__module__}:{found.__qualname__}" == registry.BUILT_IN[group][name]
    if group != "backends":
        assert found.kind == name
    assert found.__doc__


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("stages", "bm52", r"unknown stage 'bm52'; did you mean 'bm25'\? \(known: .*bm25, .*\)"),
        ("backends", "lama_cpp", r"unknown backend 'lama_cpp'; did you mean 'llama_cpp'\? "),
        ("indexes", "lexicl", r"unknown index type 'lexicl'; did you mean 'lexical'\? "),
        ("stages", "zzzzzzzz", r"unknown stage 'zzzzzzzz' \(known: "),
        ("stages", "", r"unknown stage '' \(known: "),
        ("stages", "rag.retrievers.bm25:BM25", "unknown stage"),
    ],
)
def test_an_unknown_name_has_a_hint(group: registry.Group, name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        registry.find(group, name)


def test_a_class_of_the_program_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_defined", {})

    class Mine(Stage, name="mine_test"):
        """One's own."""

    assert registry.find("stages", "mine_test") is Mine
    assert "mine_test" in registry.names("stages")
    first = Mine

    class Mine(Stage, name="mine_test"):  # type: ignore[no-redef]
        """Defined again, as a notebook does when a cell is run twice."""

    assert registry.find("stages", "mine_test") is Mine
    assert Mine is not first


def test_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_defined", {})
    registry.define("stages", "taken_test", type("First", (), {}))
    with pytest.raises(InvalidInput, match=r"'taken_test' of .*:Second is taken by .*:First; choo"):
        registry.define("stages", "taken_test", type("Second", (), {}))
    with pytest.raises(InvalidInput, match="is taken by rag.retrievers.bm25:BM25"):
        registry.define("stages", "bm25", type("Mine", (), {}))


def test_a_class_without_a_name_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_defined", {})

    class Base(Stage):
        """For others to derive from."""

    assert Base.kind == ""
    assert registry._defined == {}


def test_a_plugin_is_loaded_when_it_is_named(site: Path) -> None:
    install(site, "one", PLUGIN, "made_test")
    install(site, "two", "raise RuntimeError('never imported')", "other_test")
    assert {"made_test", "other_test"} <= set(registry.names("stages"))
    assert "plugin_one" not in sys.modules
    found = registry.find("stages", "made_test")
    assert (found.__module__, found.kind) == ("plugin_one", "made_test")
    assert registry.find("stages", "made_test") is found
    assert "plugin_two" not in sys.modules


def test_plugins_are_looked_up_once_until_something_is_installed(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,000 unknown names in one file took 40 seconds."""
    asked = list[str]()
    look = importlib.metadata.entry_points

    def counted(**given: str) -> Any:
        asked.append(given["group"])
        return look(**given)

    monkeypatch.setattr(registry, "entry_points", counted)
    registry._installed.cache_clear()
    for number in range(100):
        with pytest.raises(InvalidInput, match="unknown stage"):
            registry.find("stages", f"absent_{number}")
    assert asked == ["rag.stages"]
    install(site, "late", PLUGIN, "late_test")
    assert "late_test" in registry.names("stages")


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN["stages"]))
def test_no_stage_may_write_the_question(name: str) -> None:
    cls = registry.find("stages", name)
    for column in ("question", "id"):
        with pytest.raises(ValidationError) as caught:
            cls.model_validate({"into": column})
        (error,) = (error for error in caught.value.errors() if error["loc"] == ("into",))
        expected = "never overwritten" if cls.model_fields["into"].default else "None|never"
        assert re.search(expected, error["msg"])


def test_a_stage_of_ones_own_that_writes_the_question_is_refused_at_load() -> None:
    class Mine(Stage):
        def columns(self, have: Columns) -> Columns:
            return have.put(question="str")

    with pytest.raises(InvalidInput, match="'Mine' writes column 'question', which is never"):
        Pipeline([Mine(name="Mine")])


@pytest.mark.parametrize("group", sorted(registry.BUILT_IN))
def test_what_is_built_in_inherits_from_one_class_of_ours(group: Any) -> None:
    for name in registry.BUILT_IN[group]:
        ours = [base for base in registry.find(group, name).__mro__ if "rag." in base.__module__]
        assert [base.__name__ for base in ours[1:] if base.__name__ != "Named"] in (
            [],
            ["Stage"],
            ["Backend"],
            ["Objective"],
        )


def test_a_plugin_may_bring_index_types(site: Path) -> None:
    install(site, "kinds", "class Made: ...", "made_test", group="indexes")
    assert registry.find("indexes", "made_test").__name__ == "Made"
    with pytest.raises(InvalidInput, match=r"did you mean 'made_test'\?"):
        registry.find("indexes", "mad_test")


def test_two_plugins_with_one_name_are_both_named(site: Path) -> None:
    install(site, "one", PLUGIN, "made_test")
    install(site, "two", PLUGIN, "made_test")
    with pytest.raises(InvalidInput, match="stages: both one and two bring 'made_test'"):
        registry.find("stages", "made_test")


def test_a_plugin_with_a_built_in_name_is_refused(site: Path) -> None:
    install(site, "one", PLUGIN, "bm25")
    with pytest.raises(InvalidInput, match="stages: 'bm25' is built in, and one has it too"):
        registry.find("stages", "bm25")


def test_a_stage_of_a_notebook_runs_inside_other_stages(tmp_path: Path) -> None:
    """A class in ``__main__`` is known by its name, in YAML, in JSON and in a list of stages."""
    (tmp_path / "p.yaml").write_text(
        "kind: pipeline\nstages: [unless: {when: {question: x}, stages: [mine: {marks: 2}]}]\n"
    )
    program = """
from rag import Pipeline, Stage

class Mine(Stage, name="mine"):
    marks: int = 1

    def columns(self, have):
        return have.put(answer="str")

    def open(self, context):
        end = "!" * self.marks
        return lambda batch, run: batch.put(answer=[q + end for q in batch["question"]])

assert Mine.__module__ == "__main__"
pipeline = Pipeline.load("./p.yaml")
(stage,) = pipeline.stages
assert type(stage).model_validate_json(stage.model_dump_json()) == stage
assert pipeline.run(["x", "y"])["answer"] == (None, "y!!")
"""
    script = tmp_path / "notebook.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.stderr == b""
