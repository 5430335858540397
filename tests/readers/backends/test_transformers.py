"""The backend transformers: its settings without torch, and tiny random models with it."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from pydantic import ValidationError

from rag import registry
from rag.errors import BackendFailed, InvalidFile, InvalidInput, MissingExtra, NotFound
from rag.models import gguf
from rag.pipelines import load_pipeline
from rag.readers.backends import transformers as module
from rag.readers.backends.transformers import Transformers
from rag.stage import Context


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    def find(name: str) -> ModuleSpec | None:
        if name in absent:
            return None
        return importlib.util.find_spec(name) or ModuleSpec(name, None)

    for place in (gguf, module):
        monkeypatch.setattr(place, "find_spec", find)


@pytest.mark.parametrize("absent", ["torch", "transformers"])
def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    without(monkeypatch, absent)
    with pytest.raises(MissingExtra, match=rf"'{absent}' .* pip install 'ragstone\[models\]'"):
        Transformers(model="smollm2").open(Context())


@pytest.mark.parametrize("absent", ["gguf", "accelerate"])
def test_a_gguf_file_needs_its_readers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, absent: str
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    without(monkeypatch, absent)
    with pytest.raises(MissingExtra, match=rf"'{absent}' .* pip install 'ragstone\[models\]'"):
        gguf.converted(tmp_path / "tiny.gguf")


def test_a_converted_file_is_found_by_its_bytes_and_not_converted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAG_CACHE", str(tmp_path / "cache"))
    without(monkeypatch)
    made = list[Path]()

    def convert(path: Path, folder: Path) -> None:
        made.append(path)
        if path.name == "bad.gguf":
            raise OSError("No space left on device")
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(gguf, "_convert", convert)
    for name in ("one.gguf", "same.gguf", "other.gguf", "bad.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + name.encode() * (name != "same.gguf"))
    (tmp_path / "same.gguf").write_bytes((tmp_path / "one.gguf").read_bytes())
    first = gguf.converted(tmp_path / "one.gguf")
    assert (first / "config.json").is_file()
    assert gguf.converted(tmp_path / "same.gguf") == first
    # What a killed process left behind is no model, and in nobody's way.
    left = gguf.converted(tmp_path / "other.gguf")
    left.rename(left.with_suffix(".tmp"))
    (left.with_suffix(".tmp") / "junk").touch()
    assert gguf.converted(tmp_path / "other.gguf") == left and not (left / "junk").exists()
    assert [path.name for path in made] == ["one.gguf", "other.gguf", "other.gguf"]
    with pytest.raises(BackendFailed, match=r"No space left .* set RAG_CACHE"):
        gguf.converted(tmp_path / "bad.gguf")
    assert not list((tmp_path / "cache" / "models").glob("*.tmp"))


def test_what_is_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch)
    (tmp_path / "notes.txt").write_text("no model")
    cases = {
        "./absent/model": (NotFound, "expected a folder, a .gguf file, a name at Hugging Face"),
        "a/b/c": (NotFound, "expected a folder"),
        "absent.gguf": (NotFound, "'model' of transformers is the path of a .gguf file"),
        str(tmp_path / "notes.txt"): (InvalidInput, "is not a GGUF file, which transformers needs"),
    }
    for model, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            Transformers(model=model).open(Context())
    with pytest.raises(InvalidInput, match="only a model at Hugging Face has revisions"):
        Transformers(model=str(tmp_path), revision="main").open(Context())


def test_settings_are_checked() -> None:
    for bad in (
        {"dtype": "int8"},
        {"device": "gpu"},
        {"batch_size": 0},
        {"model": ""},
        {"trust_remote_code": True},
    ):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            Transformers(**{"model": "m", **bad})
    assert Transformers(model="m").label == "m"
    assert registry.find("backends", "transformers") is Transformers


def test_yaml_takes_it_and_points_at_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "qa.yaml"
    text = (
        "kind: pipeline\nstages:\n  - bm25\n  - generate:\n      backend:\n        transformers:\n"
    )
    file.write_text(text + "          model: ./m\n          dtype: bfloat16\n")
    stages = load_pipeline(file).stages
    assert json.loads(stages[1].model_dump_json())["backend"]["transformers"] == {
        "model": str(tmp_path / "m"),
        "revision": None,
        "dtype": "bfloat16",
        "device": None,
        "batch_size": 8,
    }
    file.write_text(text + "          model: ./m\n          dytpe: auto\n")
    with pytest.raises(InvalidFile, match=r"8:\d+: .*did you mean 'dtype'"):
        load_pipeline(file)
