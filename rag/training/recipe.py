"""The recipe file: what is trained, on what, for how long, and what is held back to score it.

    kind: recipe
    objective: {seal: {spans: 10}}       # one objective with its settings, or its name alone
    model: smollm2                       # a folder, a name at Hugging Face, a packaged model
    data: examples/xquad-en              # or {path: ..., questions: ..., split: ...}
    hold_out: {by: article, share: 0.5}  # what the model never sees, and is scored on
    train: {epochs: 1, batch: 4, learning_rate: 5e-4}
    seed: 0

A path that starts with ``./`` or ``../`` counts from the file's folder, another from the current
one, as in a pipeline.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_validator

from rag import registry
from rag.errors import InvalidFile, InvalidInput, NotFound
from rag.pipelines.report import Report
from rag.pipelines.stages import relative
from rag.pipelines.validate import Spot, closest, shown, validated
from rag.pipelines.yaml_nodes import Node, parse
from rag.stage import reason
from rag.training.objective import Objective

_FOLDER = Path(__file__).with_name("recipes")
_FORM = "an objective is a name, or one name with its settings: {seal: {spans: 10}}"


class Frozen(BaseModel):
    """Settings that do not change; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Frozen):
    """Where documents and questions come from."""

    path: str = Field(
        min_length=1, description="A source of documents as `rag index` reads it, or a collection."
    )
    questions: str | None = Field(
        None,
        min_length=1,
        description="The folder of questions and judgements; default: path, where it holds some.",
    )
    split: str | None = Field(None, description="Which judgements are trained on: train, ...")


class HoldOut(Frozen):
    """What is held back from training and scored before and after."""

    by: Literal["document", "article", "question", "split"] = Field(
        description="What is never on both sides: documents, articles (documents of one title) or "
        "questions; split takes the judgements of another split."
    )
    share: float | None = Field(None, gt=0, lt=1, description="The part held back, drawn by seed.")
    ids: tuple[str, ...] | None = Field(
        None, min_length=1, description="The ids or titles held back, instead of a share."
    )
    split: str | None = Field(None, description="With by: split, the judgements held back.")
    sample: int | None = Field(
        None,
        gt=0,
        description="The most questions or documents scored, drawn by seed; default all.",
    )
    seed: int = Field(0, ge=0, description="For what is drawn.")

    @model_validator(mode="after")
    def _one_way(self) -> HoldOut:
        given = {key for key in ("share", "ids", "split") if getattr(self, key) is not None}
        wanted = {"split"} if self.by == "split" else {"share", "ids"}
        if len(given & wanted) != 1 or given - wanted:
            raise ValueError(
                f"by: {self.by} takes {' or '.join(sorted(wanted))}, "
                f"and here are {', '.join(sorted(given)) or 'neither'}"
            )
        return self


class Train(Frozen):
    """How long and how fast is learned."""

    epochs: float | None = Field(None, gt=0, description="How often all rows are seen; or steps.")
    steps: int | None = Field(None, gt=0, description="Updates of the weights; or epochs.")
    batch: int = Field(8, gt=0, description="Rows of a pass, on each device.")
    accumulate: int = Field(1, gt=0, description="Passes whose gradients make one update.")
    learning_rate: float = Field(5e-5, gt=0, description="The highest one.")
    warmup: float = Field(
        0.0, ge=0, description="Updates until it is reached; below 1 a part of all of them."
    )
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = Field(
        "linear", description="How the rate falls after that."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's.")
    clip: float = Field(1.0, ge=0, description="The highest norm of a gradient; 0: any.")
    save_every: int = Field(500, gt=0, description="Updates between two checkpoints.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Of the passes; the weights stay in fp32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass, to save memory."
    )
    compile: bool = Field(False, description="Compile the model by torch.compile.")
    threads: int = Field(1, gt=0, description="Threads of a pass on a CPU; part of the result.")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("write either epochs or steps")
        return self


class Recipe(Frozen):
    """A recipe file, read and checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    description: str | None = None
    objective: SkipValidation[Objective]
    model: str
    data: Data | None = None
    hold_out: HoldOut | None = None
    train: Train
    seed: int = 0

    def resolved(self) -> dict[str, Any]:
        """All settings as plain values, defaults included, in the order of a recipe file."""
        objective = {self.objective.kind: self.objective.model_dump(mode="json")}
        plain = self.model_dump(mode="json", exclude={"objective"}, exclude_none=True)
        return {"kind": "recipe", "name": plain.pop("name"), "objective": objective, **plain}


class RecipeHead(Frozen):
    """The keys of a recipe file as they are written."""

    kind: Literal["recipe"] = Field(description="What the file describes.")
    name: str | None = Field(None, min_length=1, description="Default: the file's name.")
    description: str | None = Field(None, description="What the recipe is for.")
    objective: Any = Field(description="What is learned: a name, or a name with its settings.")
    model: str = Field(min_length=1, description="What the training begins with.")
    data: Any = Field(None, description="Documents and questions: a path, or a mapping.")
    hold_out: HoldOut | None = Field(None, description="What is held back, to score the model.")
    train: Train = Field(description="How long and how fast is learned.")
    seed: int = Field(0, ge=0, description="For all that is drawn in training.")


def load_recipe(source: str | Path) -> Recipe:
    """The recipe of a YAML file, or a shipped one by its bare name.

    Raises:
        InvalidFile: the file has errors; all are listed, in the order of the file.
        NotFound: there is no such file or shipped recipe.
    """
    from rag.pipelines.load import file_bytes, is_of

    path = found(source)
    report = Report(str(path))
    root = parse(file_bytes(path), report)
    is_one = is_of(root, "recipe", report)
    recipe = read_recipe(root, report, path) if is_one else None
    if recipe is None or report.problems:
        raise InvalidFile(report.problems)
    return recipe


def shipped() -> list[str]:
    """The names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def found(source: str | Path) -> Path:
    """The file that ``source`` names: a path, or a shipped recipe; ``NotFound``."""
    text = str(source)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(source)
    if text in shipped():
        return _FOLDER / f"{text}.yaml"
    raise NotFound(
        f"no recipe {text!r} is shipped{closest(text, shipped())} (shipped: "
        f"{', '.join(shipped())}); a file has / in its path or ends in .yaml"
    )


def read_recipe(root: Node, report: Report, path: Path) -> Recipe | None:
    """The recipe at ``root``; everything wrong with it goes to the report."""
    head, _ = validated(RecipeHead, Spot(root, root.place, ""), report)
    items = root.value if isinstance(root.value, dict) else {}
    objective = _objective(root, report) if "objective" in items else None
    data = _data(root, report, path.parent) if "data" in items else None
    if head is None or objective is None or report.problems:
        return None
    if missing := _lacking(objective, data, head.hold_out):
        report.add(root.keys["objective"], "objective", missing)
        return None
    return Recipe(
        name=head.name or path.stem,
        description=head.description,
        objective=objective,
        model=relative(head.model, path.parent),
        data=data,
        hold_out=head.hold_out,
        train=head.train,
        seed=head.seed,
    )


def _lacking(objective: Objective, data: Data | None, hold_out: HoldOut | None) -> str:
    if not objective.needs:
        return ""
    lacks = [name for name, one in (("data", data), ("hold_out", hold_out)) if one is None]
    what = " and ".join(sorted(objective.needs))
    return f"{objective.kind} learns from {what}: add the key {lacks[0]}" if lacks else ""


def _objective(root: Node, report: Report) -> Objective | None:
    spot = Spot(root, root.place, "").below("objective")
    node = spot.node
    if node.broken:
        return None
    if isinstance(node.value, str):
        node = Node(node.place, {node.value: Node(node.place, {})}, {node.value: node.place})
    if not isinstance(node.value, dict) or len(node.value) != 1:
        report.add(node.place, "objective", f"found {shown(node)}; {_FORM}")
        return None
    below = replace(spot, node=node).below(next(iter(node.value)))
    name = next(iter(node.value))
    try:
        cls = registry.find("objectives", name)
    except Exception as error:  # noqa: BLE001 - importing a plugin runs its code
        report.add(below.place, below.path, reason(error))
        return None
    settings = below.node
    if settings.value is None and not settings.broken:
        settings = Node(settings.place, {})
    made: Objective | None = validated(cls, replace(below, node=settings), report)[0]
    return made


def _data(root: Node, report: Report, folder: Path) -> Data | None:
    spot = Spot(root, root.place, "").below("data")
    node = spot.node
    if node.broken or node.value is None:
        return None
    if isinstance(node.value, str):
        node = Node(node.place, {"path": node}, {"path": node.place})
    if not isinstance(node.value, dict):
        found_ = f"found {shown(node)}, expected a path or a mapping with path"
        report.add(node.place, "data", found_)
        return None
    data, _ = validated(Data, replace(spot, node=node), report)
    if data is None:
        return None
    questions = None if data.questions is None else relative(data.questions, folder)
    return data.model_copy(update={"path": relative(data.path, folder), "questions": questions})


def with_data(recipe: Recipe, path: str) -> Recipe:
    """The recipe with other documents and questions, read from one folder.

    Raises:
        InvalidInput: the recipe takes no data.
    """
    if recipe.data is None:
        raise InvalidInput(f"{recipe.name}: the recipe reads no data; leave --data out")
    data = recipe.data.model_copy(update={"path": path, "questions": None})
    return recipe.model_copy(update={"data": data})
