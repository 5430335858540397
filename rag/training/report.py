"""The report of a training: ``report.json``, ``report.md`` and ``loss.svg``."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import rag
from rag.collection.folders import sync

if TYPE_CHECKING:
    from rag.training.data import Split
    from rag.training.objective import Scores, Task
    from rag.training.recipe import Recipe

DRAWS = 10_000
"""Resamplings of an interval."""
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "numpy")

Values = Mapping[str, float]


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean and its 95% interval by the percentiles of a bootstrap over the values."""
    every = np.asarray(values, np.float64)
    draw = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for at in range(0, DRAWS, 500):  # (500, n) at once
        means[at : at + 500] = every[draw.integers(len(every), size=(500, len(every)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(every.mean()), float(low), float(high)


def paired(one: Values, other: Values) -> tuple[float, float, float]:
    """The mean of ``one - other`` over the ids of both, and its 95% interval (paired bootstrap)."""
    both = sorted(one.keys() & other.keys())
    return interval([one[name] - other[name] for name in both])


def rows(
    task: Task, before: Scores, after: Scores, references: Mapping[str, Values]
) -> list[dict[str, Any]]:
    """The rows of the table: every measure before and after, and the first by other means.

    ``after_minus`` is how much the trained model has more than the row, and ``minus_reference`` how
    much the row has more than the first of the other means, each with its paired interval.
    """
    found = []
    first = next(iter(after), "").partition(" ")[0]
    main = next(iter(references.values()), {})
    for number, (measure, values) in enumerate(after.items()):
        every = [("before", before.get(measure, {})), ("after", values)]
        every += list(references.items()) if number == 0 else []
        for name, its in every:
            if not its:
                continue
            what = measure if name in ("before", "after") else first
            row: dict[str, Any] = {"row": name, "measure": what, "n": len(its)}
            row["mean"], row["low"], row["high"] = _round(interval(list(its.values())))
            if name != "after" and values.keys() & its.keys():
                row["after_minus"] = _round(paired(values, its))
            if main.keys() & its.keys() and its != main and measure.partition(" ")[0] == first:
                row["minus_reference"] = _round(paired(its, main))
            row["higher_is_better"] = task.higher_is_better(measure)
            found.append(row)
    return found


def write(
    folder: Path,
    *,
    recipe: Recipe,
    split: Split,
    task: Task,
    model: str,
    sizes: Sequence[tuple[int, bool]],
    steps: int,
    history: list[dict[str, float]],
    before: Scores,
    after: Scores,
    references: Mapping[str, Values],
    seconds: Mapping[str, Sequence[float]],
    resumed: str | None,
) -> dict[str, Any]:
    """Write the three files; returns what ``report.json`` holds.

    ``sizes``: of each tensor of the model before training, and whether it is trained.
    """
    report = {
        "recipe": recipe.resolved(),
        "steps": steps,
        "rows": len(task.rows),
        "sizes": {
            side: {"documents": len(its.documents), "questions": len(its.questions)}
            for side, its in (("train", split.train), ("held_back", split.held))
        },
        "dropped_questions": split.dropped,
        "parameters": {
            "all": sum(size for size, _ in sizes),
            "trained": sum(size for size, learned in sizes if learned),
        },
        "data": dict(split.hashes),
        "model_before": model,
        "scores": rows(task, before, after, references),
        "values": {"before": before, "after": after, "references": references},
        "loss": [[int(entry["step"]), round(entry["loss"], 6)] for entry in history],
        "notes": task.notes(),
        "seconds": {key: list(value) for key, value in seconds.items()},
        "resumed_from": resumed,
        "versions": _versions(),
    }
    _draw(folder / "loss.svg", report["loss"])  # type: ignore[arg-type]
    (folder / "report.md").write_text(_text(report), "utf-8")
    # Last, and whole: it says that the training is done.
    aside = folder / "report.json.tmp"
    aside.write_text(json.dumps(report, ensure_ascii=False, indent=1), "utf-8")
    sync(aside)
    aside.rename(folder / "report.json")
    return report


def _round(values: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def _versions() -> dict[str, str]:
    found = {"ragstone": rag.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _draw(file: Path, loss: list[list[float]]) -> None:
    """The curve of the loss, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "ragstone", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(7, 3.2))
        if loss:
            steps, values = zip(*loss, strict=True)
            axes.plot(steps, values, linewidth=0.8, color="0.7", label="loss")
            width = max(1, len(values) // 20)
            smooth = np.convolve(values, np.ones(width) / width, "valid")
            axes.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width}")
            axes.legend(frameon=False)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def _text(report: Mapping[str, Any]) -> str:
    """The report for a person, in Markdown."""
    recipe, sizes = report["recipe"], report["sizes"]
    lines = [f"# {recipe['name']}", ""]
    lines += [recipe["description"], ""] if recipe.get("description") else []
    lines += ["## Scores on what was held back", ""]
    if report["scores"]:
        main = next(iter(report["values"]["references"]), None)
        against = f" this minus {main} |" if main else ""
        lines += [f"| | measure | mean | 95% interval | after minus this |{against} n |"]
        lines += ["| --- | --- | --- | --- | --- |" + (" --- |" if main else "") + " --- |"]
        for row in report["scores"]:
            other = f" {_signed(row.get('minus_reference'))} |" if main else ""
            lines.append(
                f"| {row['row']} | {row['measure']} | {row['mean']:.4f} | {row['low']:.4f} to "
                f"{row['high']:.4f} | {_signed(row.get('after_minus'))} |{other} {row['n']:,} |"
            )
        note = "Intervals are of 95%, by 10,000 draws of a bootstrap over questions or documents"
        lines += ["", f"{note}; those of differences are paired."]
    else:
        lines += ["Nothing was held back."]
    lines += ["", "## Training", "", "![training loss](loss.svg)", ""]
    dropped = report["dropped_questions"]
    facts = {
        "objective": json.dumps(recipe["objective"], ensure_ascii=False),
        "model before": f"{recipe['model']} ({report['model_before']})",
        "parameters": f"{report['parameters']['all']:,}, "
        f"of which trained: {report['parameters']['trained']:,}",
        "steps": f"{report['steps']:,} of {recipe['train']['batch']} x "
        f"{recipe['train']['accumulate']} rows; {report['rows']:,} rows in an epoch",
        "loss": _ends(report["loss"]),
        "training side": _side(sizes["train"]),
        "held back": _side(sizes["held_back"])
        + (f"; {dropped:,} questions left out, which would be on both sides" if dropped else ""),
        "data": ", ".join(f"{k} {v}" for k, v in report["data"].items()) or "none",
        "seed": str(recipe["seed"]),
        "seconds (CPU)": ", ".join(
            f"{k} {wall:g} ({cpu:g})" for k, (wall, cpu) in report["seconds"].items()
        )
        + (f"; went on from {report['resumed_from']}" if report["resumed_from"] else ""),
        "versions": ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
    }
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += [f"- {note}" for note in report["notes"]]
    return "\n".join(lines) + "\n"


def _signed(values: Sequence[float] | None) -> str:
    """A difference with its interval, or nothing."""
    if values is None:
        return ""
    mean, low, high = values
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _side(size: Mapping[str, int]) -> str:
    return f"{size['documents']:,} documents, {size['questions']:,} questions"


def _ends(loss: Sequence[Sequence[float]]) -> str:
    if not loss:
        return "none"
    tenth = max(1, len(loss) // 10)
    first = np.mean([value for _, value in loss[:tenth]])
    last = np.mean([value for _, value in loss[-tenth:]])
    return f"{first:.4f} in the first tenth, {last:.4f} in the last"
