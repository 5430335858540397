"""A recipe to a trained model: read, score, train, save, score, report; a killed run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rag.collection.folders import file_hash, key_of, sync
from rag.errors import Conflict, InvalidInput, MissingExtra, NotFound, TrainingFailed
from rag.training import data as reading
from rag.training.recipe import Recipe

if TYPE_CHECKING:
    from rag.jobs import Progress
    from rag.training.data import Split
    from rag.training.objective import Scores, Task

FORMAT = 1
"""Of what stands in the folder of a training; part of its key."""
ASIDE = "training"
"""The folder, within that of the model, for all that is not the model."""
_STATE, _REPORT = "state.json", "report.json"


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        out: The folder: the model itself, and in ``out/training`` how it came about.
        report: What ``report.json`` holds.
        unchanged: It was made from the same before, and nothing was done.
    """

    out: Path
    report: Mapping[str, Any]
    unchanged: bool

    @property
    def page(self) -> Path:
        """The report for a person."""
        return self.out / ASIDE / "report.md"


def train(recipe: Recipe, out: Path | str, *, progress: Progress | None = None) -> Trained:
    """Train a model by a recipe into a folder.

    What is in the folder already is gone on with, if it is of the same recipe, data and model: the
    last checkpoint, the scores of before. Checkpoints are removed when the model is whole.

    Args:
        recipe: What ``load_recipe`` gives.
        out: A new or empty folder, or one of the same recipe.
        progress: Called with (what, done, total), what being "score", "train" or "save".

    Raises:
        MissingExtra: a package that trains is not installed.
        Conflict: the folder holds something else, or another process trains in it.
        InvalidInput, NotFound, BadRow: the data, the model or the settings cannot be used.
        TrainingFailed: a loss is not finite, or a checkpoint cannot be written.
    """
    for module in ("torch", "transformers", "accelerate", "matplotlib"):
        if find_spec(module) is None:
            raise MissingExtra("train", module)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    folder = Path(out)
    split = reading.read(recipe.data, recipe.hold_out, recipe.objective.needs)
    model = _hash_of_model(recipe)
    with _held(folder):
        key = _key(recipe, split, model)
        _begin(folder, key, recipe)
        aside = folder / ASIDE
        if (aside / _REPORT).is_file():
            shutil.rmtree(aside / "checkpoints", ignore_errors=True)
            return Trained(folder, json.loads((aside / _REPORT).read_text("utf-8")), True)
        return _trained(recipe, folder, split, model, progress or (lambda *_: None))


def _trained(recipe: Recipe, folder: Path, split: Split, model: str, tell: Progress) -> Trained:
    from transformers import set_seed

    from rag.training.loop import Loop, last_checkpoint
    from rag.training.report import write

    set_seed(recipe.seed)
    seconds: dict[str, list[float]] = {}
    with _timed(seconds, "open"):
        task = recipe.objective.open(recipe.model, split, recipe.seed)
    sizes = [(value.numel(), value.requires_grad) for value in task.model.parameters()]
    aside = folder / ASIDE
    checkpoints = aside / "checkpoints"
    resumed = last_checkpoint(checkpoints)
    with _timed(seconds, "score_before"):
        tell("score", 0, 2)
        before = _once(aside / "before.json", lambda: _asked(task, task.score))
        references = _once(aside / "references.json", lambda: _asked(task, task.references))
    loop = Loop(task, recipe.train, recipe.seed, checkpoints, tell)
    with _timed(seconds, "train"):
        history = loop.run()
    with _timed(seconds, "save"):
        tell("save", 0, 1)
        _save(task, folder)
        tell("save", 1, 1)
    with _timed(seconds, "score_after"):
        after = _asked(task, task.score)
        tell("score", 2, 2)
    report = write(
        aside, recipe=recipe, split=split, task=task, model=model, sizes=sizes, steps=loop.steps,
        history=history, before=before, after=after, references=references, seconds=seconds,
        resumed=None if resumed is None else resumed.name,
    )  # fmt: skip
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Trained(folder, report, False)


def _key(recipe: Recipe, split: Split, model: str) -> str:
    """What a result hangs on: the settings, the data and the model that training begins with."""
    plain = recipe.resolved()
    for unimportant in ("name", "description"):
        plain.pop(unimportant, None)
    plain["train"].pop("save_every")
    if plain.get("data"):
        plain["data"] = dict(split.hashes)  # what it holds, not where it lies
    return key_of(FORMAT, plain, model)


def _hash_of_model(recipe: Recipe) -> str:
    """The hash of the files that training begins with; of no files where there are none."""
    files = recipe.objective.files(recipe.model)
    return key_of([[file.name, file_hash(file)] for file in files])


def _begin(folder: Path, key: str, recipe: Recipe) -> None:
    """Make the folder that of this training.

    Raises:
        Conflict: it holds something else.
    """
    aside = folder / ASIDE
    state = aside / _STATE
    if state.is_file():
        if json.loads(state.read_text()).get("key") != key:
            raise Conflict(
                f"{folder}: holds a training of another recipe, data or model ({aside}/recipe.yaml"
                " says which); give --out a new folder, or remove this one"
            )
    else:
        _check_empty(folder)
        _put(state, {"format": FORMAT, "key": key})
    if not (aside / "recipe.yaml").is_file():
        text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
        (aside / "recipe.yaml").write_text(text, "utf-8")


def _check_empty(folder: Path) -> None:
    ours = (ASIDE, ".lock", f"{_STATE}.tmp")
    inside = (*folder.iterdir(), *(folder / ASIDE).iterdir())
    others = sorted(path.name for path in inside if path.name not in ours)
    if others:
        raise Conflict(f"{folder}: is not empty ({others[0]}); give --out a new folder")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder alone, made if need be."""
    if not folder.parent.is_dir():
        raise NotFound(f"{folder}: there is no folder {folder.parent}; make it first")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder}: is a file; give --out a folder")
    if (folder / ASIDE).exists() and not (folder / ASIDE).is_dir():
        raise Conflict(f"{folder}: is not empty ({ASIDE}); give --out a new folder")
    (folder / ASIDE).mkdir(parents=True, exist_ok=True)
    with (folder / ASIDE / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{folder}: another process trains in it; wait for it") from None
        yield


@contextmanager
def _timed(seconds: dict[str, list[float]], name: str) -> Iterator[None]:
    """Note how long something took: wall clock, and CPU time of this process."""
    began = time.perf_counter(), time.process_time()
    yield
    now = time.perf_counter(), time.process_time()
    seconds[name] = [round(after - before, 1) for before, after in zip(began, now, strict=True)]


def _once(file: Path, make: Any) -> Any:
    """What ``make`` gives, kept in a file for a run that goes on."""
    if not file.is_file():
        _put(file, make())
    return json.loads(file.read_text("utf-8"))


def _put(file: Path, value: Any) -> None:
    aside = file.with_name(file.name + ".tmp")
    aside.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True), "utf-8")
    sync(aside)
    aside.rename(file)
    sync(file.parent)


def _asked(task: Task, ask: Callable[[], Scores]) -> Scores:
    """What ``ask`` says of the held-back side; the generators of training are not touched."""
    import torch

    was = task.model.training
    task.model.eval()
    with torch.random.fork_rng(), torch.no_grad():
        found = {name: dict(values) for name, values in ask().items()}
    task.model.train(was)
    return found


def _save(task: Task, folder: Path) -> None:
    """Write the model aside, and move it to its place when it is whole."""
    aside = folder / ASIDE / "model.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    task.model.eval()
    from safetensors import SafetensorError

    from rag.models.load import quiet

    try:
        with quiet():
            task.save(aside)
        for file in aside.rglob("*"):
            sync(file)
        sync(aside)
        for path in folder.iterdir():  # of a run that was killed just here
            if path.name != ASIDE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # What says that it is a model comes last: half of one is opened by nobody.
        for path in sorted(aside.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            path.rename(folder / path.name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise TrainingFailed(
            f"{folder}: cannot be written: {why}; make room and run the same command "
            "again; the training itself is kept"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
