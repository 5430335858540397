"""The loop: transformers' Trainer, an order of rows that hangs on the seed, whole checkpoints.

A training is one long list of places, row after row and epoch after epoch, which the seed gives. So
a checkpoint needs no state of the data: training goes on at the next place, and whatever a batch
draws comes from a generator that is seeded with its place. Weights, AdamW's moments, the schedule
and torch's generators are in the checkpoint; on a CPU in fp32, training that goes on gives the bits
of training in one go.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rag.collection.folders import sync
from rag.errors import Damaged, InvalidInput, TrainingFailed
from rag.training.objective import Task
from rag.training.recipe import Train

LOGGED = 200
"""Points of a loss curve."""
KEPT = 2
"""Checkpoints that are kept: the last good one, and one before it."""
WEIGHTS = "weights.safetensors"

Tell = Callable[[str, int, int | None], None]


def steps_of(train: Train, rows: int) -> int:
    """The updates of a training with so many rows."""
    if train.steps is not None:
        return train.steps
    return math.ceil((train.epochs or 0) * rows / (train.batch * train.accumulate))


class Loop:
    """One training in a folder of checkpoints; ``run`` goes on from the last of them."""

    def __init__(self, task: Task, train: Train, seed: int, folder: Path, tell: Tell) -> None:
        """Take an opened task; this sets torch's threads and generators.

        Raises:
            InvalidInput: the model cannot checkpoint gradients, bf16 is not supported here, or this
                is one of several processes.
        """
        if not len(task.rows):
            raise InvalidInput("the training side gives no rows to learn from; change hold_out")
        self.steps = steps_of(train, len(task.rows))
        if train.gradient_checkpointing:
            _checkpoint_gradients(task.model)
        try:
            arguments = _arguments(train, self.steps, seed, folder)
        except ValueError as error:
            raise InvalidInput(f"train: {error}") from None
        if arguments.world_size > 1:
            raise InvalidInput(
                f"train: started as one of {arguments.world_size} processes; a recipe trains on "
                "one device, so start it without torchrun"
            )
        torch.set_num_threads(train.threads)
        places = _Places(task, self.steps * train.batch * train.accumulate, seed)
        self._trainer = _Trainer(
            model=_Loss(task),
            args=arguments,
            train_dataset=places,
            data_collator=_Collate(task, seed),
            callbacks=[_Tell(tell)],
        )
        self._trainer.remove_callback(PrinterCallback)
        self._trainer.folder, self._trainer.tune = folder, task.tune
        self._task, self._folder = task, folder

    def run(self) -> list[dict[str, float]]:
        """Train to the end; the log of losses: ``step``, ``loss``, ``learning_rate``, ...

        Raises:
            TrainingFailed: a loss or a gradient is not finite, memory is used up, or a checkpoint
                cannot be written.
            Damaged: the last checkpoint cannot be read.
        """
        last = last_checkpoint(self._folder)
        try:
            self._trainer.train(resume_from_checkpoint=None if last is None else str(last))
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise TrainingFailed(
                f"no memory is left at step {self._trainer.state.global_step + 1}; "
                f"{good(self._folder)}, or with a smaller train.batch and more train.accumulate in "
                "another folder"
            ) from error
        history: list[dict[str, float]] = self._trainer.state.log_history
        return [entry for entry in history if "loss" in entry]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a folder, or None."""
    found = sorted(folder.glob("checkpoint-*"), key=_step)
    return found[-1] if found else None


def good(folder: Path) -> str:
    """What an error says of the last checkpoint."""
    last = last_checkpoint(folder)
    if last is None:
        return "there is no checkpoint yet; the same command begins anew"
    return f"the last good checkpoint is {last}; the same command goes on from it"


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _arguments(train: Train, steps: int, seed: int, folder: Path) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=train.batch,
        gradient_accumulation_steps=train.accumulate,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup if train.warmup < 1 else int(train.warmup),
        weight_decay=train.weight_decay,
        max_grad_norm=train.clip,
        optim="adamw_torch",
        save_strategy="steps",
        save_steps=train.save_every,
        logging_steps=max(1, steps // LOGGED),
        logging_nan_inf_filter=False,
        bf16=train.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        torch_compile=train.compile,
        seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        label_names=[],
    )
    if arguments.n_gpu > 1:  # or it would split each batch over all of them
        arguments._n_gpu = 1
    return arguments


def _checkpoint_gradients(model: Any) -> None:
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(model, name):
            getattr(model, name)()
            return
    raise InvalidInput(
        f"train.gradient_checkpointing: {type(model).__name__} cannot do it; leave it out"
    )


class _Loss(nn.Module):  # type: ignore[misc]
    """A task's model, whose output is the loss of a batch."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self._loss(self.model, batch)


class _Places(torch.utils.data.Dataset):  # type: ignore[misc]
    """The rows in the order of the training: place k is row k of the epochs one after the other."""

    def __init__(self, task: Task, length: int, seed: int) -> None:
        self._task, self._length, self._seed = task, length, seed
        self._epochs: dict[int, Sequence[int]] = {}
        self._starts = [0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> tuple[int, Any]:
        while place >= self._starts[-1]:
            self._order(len(self._starts) - 1)
        epoch = int(np.searchsorted(self._starts, place, "right")) - 1
        order = self._order(epoch)
        return place, self._task.rows[order[place - self._starts[epoch]]]

    def _order(self, epoch: int) -> Sequence[int]:
        if epoch not in self._epochs:
            order = self._task.order(np.random.default_rng([self._seed, 0, epoch]))
            if not len(order):
                raise InvalidInput("the objective puts no rows into an epoch")
            if epoch == len(self._starts) - 1:
                self._starts.append(self._starts[-1] + len(order))
            self._epochs = {epoch: order}
        return self._epochs[epoch]


class _Collate:
    """Rows with their places to a batch, whose draws hang on its first place."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._seed = task, seed

    def __call__(self, items: list[tuple[int, Any]]) -> dict[str, Any]:
        rows = [row for _, row in items]
        draw = np.random.default_rng([self._seed, 1, items[0][0]])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw.integers(2**62)))
            batch = self._task.collate(rows, draw)
        return {"batch": batch, "rows": [str(row[0]) for row in rows]}


class _Tell(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell("train", state.global_step, state.max_steps)


class _Trainer(Trainer):  # type: ignore[misc]
    """Trainer with our order, our checkpoints, and an end at the first loss that is no number."""

    folder: Path
    tune: Callable[[Any], None]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def create_optimizer(self, *given: Any) -> Any:
        if self.optimizer is None:
            self.tune(super().create_optimizer(*given))
        return self.optimizer

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
        loss = model(inputs["batch"])
        if not torch.isfinite(loss):
            raise TrainingFailed(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}, for the rows "
                f"{', '.join(inputs['rows'])}; {good(self.folder)}: look at these rows, or lower "
                "train.learning_rate (another recipe begins in another folder)"
            )
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingFailed(
                f"the gradient is no number at step {self.state.global_step + 1}; "
                f"{good(self.folder)}; lower train.learning_rate"
            )
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder / "aside")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write aside, wait for the disk, rename: what has the name of a checkpoint is whole."""
        if not self.args.should_save:
            return
        aside = self.folder / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        name = f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            for file in (aside / name).iterdir():
                sync(file)
            sync(aside / name)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (aside / name).rename(self.folder / name)
            sync(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            why = str(error).strip().partition("\n")[0]
            raise TrainingFailed(
                f"the checkpoint of step {self.state.global_step} cannot be written in "
                f"{self.folder}: {why}; make room; {good(self.folder)}"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for old in sorted(self.folder.glob("checkpoint-*"), key=_step)[:-KEPT]:
            shutil.rmtree(old)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = output_dir or self.args.output_dir
        os.makedirs(folder, exist_ok=True)
        learned = _learned(self.accelerator.unwrap_model(self.model))
        whole = {name: value.contiguous() for name, value in learned.items()}
        save_file(whole, Path(folder) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        file = Path(resume_from_checkpoint) / WEIGHTS
        try:
            found = load_file(file)
        except (OSError, SafetensorError) as error:
            raise Damaged(f"{file}: cannot be read: {error}; remove this checkpoint") from error
        mine = _learned(self.accelerator.unwrap_model(self.model))
        if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in mine.items()}:
            raise Damaged(f"{file}: holds the weights of another model; remove this checkpoint")
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(found[name])


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes, each once: parameters that are learned, and buffers."""
    names = {name: value for name, value in model.named_parameters() if value.requires_grad}
    kept = model.state_dict().keys()
    names |= {name: value for name, value in model.named_buffers() if name in kept}
    return {name: value.detach() for name, value in names.items()}
