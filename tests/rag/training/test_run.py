"""Trainings end whole: killed, resumed, on a full disk, at a loss that is no number."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

from rag.errors import Conflict, TrainingFailed
from rag.training.recipe import Recipe, load_recipe
from rag.training.run import Trained, train
from tests.rag.training import tiny_objective  # noqa: F401  it registers itself

STEPS = 30


def recipe(folder: Path, dataset: Path, **changes: str) -> Recipe:
    given = {
        "objective": "tiny_line",
        "hold_out": "{by: article, share: 0.5}",
        "train": f"{{steps: {STEPS}, batch: 2, accumulate: 2, save_every: 10}}",
        "seed": "3",
    } | changes
    lines = [f"{key}: {value}" for key, value in given.items()]
    file = folder / "recipe.yaml"
    file.write_text("\n".join(["kind: recipe", "model: none", f"data: {dataset}", *lines]) + "\n")
    return load_recipe(file)


def weights(done: Trained) -> bytes:
    return (done.out / "model.safetensors").read_bytes()


def stop_at(step: int, stop: Callable[[], None]) -> Callable[[str, int, int | None], None]:
    def tell(what: str, done: int, total: int | None) -> None:
        if what == "train" and done == step:
            stop()

    return tell


def killed(body: Callable[[], object]) -> int:
    """The signal that ended a child process that does this."""
    child = os.fork()
    if not child:
        try:
            body()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", [5, 10, 17])
def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, dataset: Path, step: int
) -> None:
    plan = recipe(tmp_path, dataset)
    whole = train(plan, tmp_path / "whole")
    out = tmp_path / "killed"
    die = stop_at(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert killed(lambda: train(plan, out, progress=die)) == -signal.SIGKILL
    saved = sorted(path.name for path in (out / "training" / "checkpoints").glob("checkpoint-*"))
    assert saved == ([] if step <= 10 else ["checkpoint-10"])
    again = train(plan, out)
    assert weights(again) == weights(whole)
    assert again.report["loss"] == whole.report["loss"]
    assert again.report["scores"] == whole.report["scores"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_a_training_killed_after_its_last_step_is_finished(tmp_path: Path, dataset: Path) -> None:
    plan, out = recipe(tmp_path, dataset), tmp_path / "out"

    def die(what: str, done: int, total: int | None) -> None:
        if what == "save":
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(lambda: train(plan, out, progress=die)) == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    assert weights(train(plan, out)) == weights(train(plan, tmp_path / "whole"))


def test_what_is_made_already_is_not_made_again(tmp_path: Path, dataset: Path) -> None:
    plan = recipe(tmp_path, dataset)
    first = train(plan, tmp_path / "out")
    again = train(plan, tmp_path / "out")
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.report == json.loads(json.dumps(first.report))
    with pytest.raises(Conflict, match="another recipe, data or model"):
        train(recipe(tmp_path, dataset, seed="4"), tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        train(recipe(tmp_path, dataset), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_loss_that_is_no_number_names_step_rows_and_checkpoint(
    tmp_path: Path, dataset: Path
) -> None:
    plan = recipe(tmp_path, dataset, objective="{tiny_line: {nan_at: q5-2-1}}",
                  hold_out="{by: article, ids: [Article 0]}")  # fmt: skip
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step \d+, for the rows .*q5-2-1"):
        train(plan, tmp_path / "out")
    with pytest.raises(TrainingFailed, match="loss is nan"):  # and nothing was lost or skipped
        train(plan, tmp_path / "out")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, dataset: Path) -> None:
    plan, out = recipe(tmp_path, dataset, objective="{tiny_line: {width: 4}}"), tmp_path / "out"
    report = tmp_path / "said"

    def body() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = stop_at(15, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard)))
        try:
            train(plan, out, progress=limit)
        except TrainingFailed as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            report.write_text(str(error))

    assert killed(body) == 0
    assert "the checkpoint of step 20 cannot be written in" in report.read_text()
    assert "checkpoint-10" in report.read_text()
    assert [path.name for path in (out / "training" / "checkpoints").iterdir()] == ["checkpoint-10"]
    assert weights(train(plan, out)) == weights(train(plan, tmp_path / "whole"))


def test_a_checkpoint_of_other_weights_is_damage(tmp_path: Path, dataset: Path) -> None:
    from safetensors.torch import load_file, save_file

    from rag.errors import Damaged

    plan, out = recipe(tmp_path, dataset), tmp_path / "out"
    die = stop_at(12, lambda: os.kill(os.getpid(), signal.SIGKILL))
    killed(lambda: train(plan, out, progress=die))
    file = out / "training" / "checkpoints" / "checkpoint-10" / "weights.safetensors"
    good = load_file(file)
    save_file({name: value for name, value in list(good.items())[1:]}, file)
    with pytest.raises(Damaged, match="remove this checkpoint"):
        train(plan, out)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, dataset: Path) -> None:
    plan = recipe(tmp_path, dataset)
    out, asked = tmp_path / "out", []

    def meanwhile() -> None:
        with pytest.raises(Conflict, match="another process"):
            train(plan, out)
        asked.append(True)

    train(plan, out, progress=stop_at(3, meanwhile))
    assert asked
