"""What is shipped: the lists in pyproject.toml, the wheel, the sdist, and both at work outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("eval", "indexers", "pipelines", "readers", "retrievers")
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS: dict[str, Any] = SETTINGS["tool"]["setuptools"]


def files_of(package: str) -> Iterator[Path]:
    """Every file below the folder of ``rag`` or of one room; links are not followed."""
    for folder, below, names in os.walk(ROOT / package):
        below[:] = [name for name in below if name != "__pycache__"]
        yield from (Path(folder) / name for name in names)


def shipped() -> dict[str, Path]:
    """Each file of ours as the wheel names it -> where it lies in the checkout."""
    found = {f"{path.relative_to(ROOT)}": path for path in files_of("rag")}
    for room in ROOMS:
        found |= {f"rag/{path.relative_to(ROOT)}": path for path in files_of(room)}
    return found


def test_every_package_is_listed() -> None:
    folders = {name.rpartition("/")[0] for name in shipped() if name.endswith("/__init__.py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted(name.replace("/", ".") for name in folders)


def test_every_module_is_in_a_package() -> None:
    packages = {name.replace(".", "/") for name in SETUPTOOLS["packages"]}
    modules = {name for name in shipped() if name.endswith(".py")}
    assert [name for name in sorted(modules) if name.rpartition("/")[0] not in packages] == []


def test_every_room_is_mapped_to_its_folder() -> None:
    assert SETUPTOOLS["package-dir"] == {"rag": "rag"} | {f"rag.{room}": room for room in ROOMS}


def test_every_data_file_is_listed() -> None:
    def listed(name: str) -> bool:
        # Data may lie in a folder of its package, as recipes do.
        places = [(str(above), name[len(f"{above}/") :]) for above in Path(name).parents]
        return any(
            fnmatch(file, pattern)
            for folder, file in places
            for pattern in SETUPTOOLS["package-data"].get(folder.replace("/", "."), [])
        )

    data = [name for name in sorted(shipped()) if not name.endswith(".py")]
    assert "rag/py.typed" in data
    assert [name for name in data if not listed(name)] == []


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel as it is built from the checkout, and as it is built from the sdist."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("rag", *ROOMS):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)

    def build(*options: str) -> Path:
        out = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(out)]
        done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(out.glob("*.whl"))

    return {"checkout": build("--wheel"), "sdist": build()}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        assert len(set(names)) == len(names)
        return {name: opened.read(name) for name in names}


def test_wheel_holds_every_file(wheels: dict[str, Path]) -> None:
    found = {k: v for k, v in contents(wheels["checkout"]).items() if ".dist-info/" not in k}
    assert found == {name: path.read_bytes() for name, path in shipped().items()}


def test_sdist_gives_the_same_wheel(wheels: dict[str, Path]) -> None:
    assert contents(wheels["sdist"]) == contents(wheels["checkout"])


def test_wheel_works_outside_the_checkout(wheels: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheels["sdist"])], check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    cache = str(tmp_path / "cache")
    environment = os.environ | {"PYTHONPATH": str(target), "RAG_CACHE": cache}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=outside, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import rag, rag.pipelines; print(rag.__file__); print(rag.pipelines.__file__)"
    for file in run(sys.executable, "-c", where).splitlines():
        assert Path(file).is_relative_to(target)

    rows = [
        {"_id": "a", "title": "Penicillin", "text": "Alexander Fleming found it in 1928."},
        {"_id": "b", "title": "Radium", "text": "Marie Curie found it in 1898."},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (outside / "rows.jsonl").write_text(text, encoding="utf-8")
    rag = str(target / "bin" / "rag")
    assert "index" in run(rag, "--help")
    run(rag, "index", "rows.jsonl", "--out", "found")
    found = run(rag, "search", "Who was Fleming?", "-c", "found", "-p", "bm25", "--json")
    assert [hit["id"] for hit in json.loads(found)] == ["a"]
    assert "schema" in run(sys.executable, "-m", "rag.cli", "--help")
