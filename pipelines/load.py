"""Pipeline and index files: read, check everything, report all errors at once.

A pipeline file::

    kind: pipeline
    name: wiki-qa            # optional; default: the file's name
    description: ...         # optional
    collection: ./wiki       # optional; ./ and ../ start at the file's folder, others at the
                             # current one
    spread: {shards: 4}      # optional; by how many actors of a Ray cluster it is searched
    on_error: keep           # optional; keep fills the error of a row that fails, stop raises
    stages:
      - bm25: {top_k: 100}   # a name with settings
      - reorder              # a name alone has the default settings
      - pipeline: ./more.yaml    # the stages of another file

A setting of a stage that starts with ``./`` or ``../`` is a path from the file's folder too (a
model, a collection). ``${NAME}`` in a value is the environment variable NAME; one that is the
whole value reads as a number where it looks like one and a number is wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rag.errors import InvalidFile, InvalidInput, NotFound, Problem
from rag.jobs import Resources
from rag.pipeline import Pipeline
from rag.pipelines.report import Report
from rag.pipelines.stages import Checked, Scope, read_stages, relative
from rag.pipelines.validate import Spot, closest, shown, validated
from rag.pipelines.yaml_nodes import MAX_BYTES, Node, parse
from rag.spread import Spread
from rag.stage import Stage

if TYPE_CHECKING:
    from rag.collection import Collection, Snapshot
    from rag.pipelines.index import IndexFile

KINDS = ("index", "pipeline", "recipe")
_FOLDER = Path(__file__).parent


class PipelineFile(BaseModel):
    """The keys of a pipeline file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pipeline"] = Field(description="What the file describes.")
    name: str | None = Field(None, description="What tables call the pipeline.", min_length=1)
    description: str | None = Field(None, description="What the pipeline is for.")
    collection: str | None = Field(
        None,
        description="The folder of the collection; ./ and ../ start at the file's folder.",
        min_length=1,
    )
    spread: Spread | None = Field(
        None, description="Search the collection by actors of a Ray cluster (docs/ray.md)."
    )
    resources: Resources | None = Field(
        None, description="What a worker of a job needs on a Ray cluster (docs/ray.md)."
    )
    on_error: Literal["keep", "stop"] = Field(
        "keep", description="keep fills the error of a row that fails and goes on; stop raises."
    )
    stages: list[Any] = Field(
        description="Names of stages, each alone or with its settings.", min_length=1
    )


def load_pipeline(
    source: str | Path, *, collection: Collection | Snapshot | Path | str | None = None
) -> Pipeline:
    """The pipeline of a YAML file, or a shipped one by its bare name.

    Args:
        source: a bare word is a shipped pipeline; with ``/`` in it, or ending in ``.yaml`` or
            ``.yml``, it is a file.
        collection: goes before the one that the file names.

    Raises:
        InvalidFile: the file has errors; all are listed, in the order of the file.
        NotFound: there is no such file or shipped pipeline.
    """
    path = found(source)
    report = Report(str(path))
    head, stages = pipeline_parts(path, _scope(report, path))
    if head is None or report.problems:
        raise InvalidFile(report.problems)
    if collection is None and head.collection is not None:
        collection = relative(head.collection, path.parent)
    name = head.name or path.stem
    how: dict[str, Any] = {"spread": head.spread, "resources": head.resources}
    return Pipeline(stages, collection, on_error=head.on_error, name=name, **how)


def pipeline_parts(
    path: Path, scope: Scope, columns: Checked | None = None
) -> tuple[PipelineFile | None, list[Stage]]:
    """The keys and the stages of a pipeline file; what is wrong goes to the report of ``scope``.

    Raises:
        InvalidFile: the file cannot be read any further.
        NotFound: there is no such file.
    """
    root = parse(file_bytes(path), scope.report)
    is_one = is_of(root, "pipeline", scope.report)
    return _pipeline(root, scope, columns) if is_one else (None, [])


def load_index(path: str | Path) -> IndexFile:
    """The settings of an index file.

    Raises:
        InvalidFile: the file has errors; all are listed, in the order of the file.
        NotFound: there is no such file.
    """
    from rag.pipelines.index import read_index

    report = Report(str(path))
    root = parse(file_bytes(Path(path)), report)
    is_one = is_of(root, "index", report)
    made = read_index(root, report, Path(path).parent) if is_one else None
    if made is None or report.problems:
        raise InvalidFile(report.problems)
    return made


def problems(path: str | Path) -> list[Problem]:
    """Everything that is wrong with a file of any kind, in its order; empty when it is good.

    Raises:
        NotFound: there is no such file, shipped pipeline or shipped recipe.
    """
    from rag.training import recipe as recipes

    file = recipes.found(path) if str(path) in recipes.shipped() else found(path)
    report = Report(str(file))
    try:
        root = parse(file_bytes(file), report)
    except InvalidFile as error:
        return list(error.problems)
    kind = _kind(root, report)
    if kind == "index":
        from rag.pipelines.index import read_index

        read_index(root, report, file.parent)
    elif kind == "recipe":
        recipes.read_recipe(root, report, file)
    elif kind == "pipeline":
        _pipeline(root, _scope(report, file))
    return report.problems


def shipped() -> list[str]:
    """The names of the pipelines that come with the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def found(source: str | Path) -> Path:
    """The file that ``source`` names: a path, or a shipped pipeline; ``NotFound``."""
    text = str(source)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(source)
    if text in shipped():
        return _FOLDER / f"{text}.yaml"
    files = [name for name in (f"{text}.yaml", f"{text}.yml") if Path(name).is_file()]
    hint = f"; did you mean the file {files[0]}?" if files else closest(text, shipped())
    raise NotFound(
        f"no pipeline {text!r} is shipped{hint} (shipped: {', '.join(shipped())}); "
        "a file has / in its path or ends in .yaml"
    )


def file_bytes(path: Path) -> bytes:
    """What a YAML file holds, no more than can be parsed; ``NotFound``, ``InvalidInput``."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None


def _scope(report: Report, path: Path) -> Scope:
    return Scope(report, path.parent, (path.resolve(),))


def _pipeline(
    root: Node, scope: Scope, columns: Checked | None = None
) -> tuple[PipelineFile | None, list[Stage]]:
    head, _ = validated(PipelineFile, Spot(root, root.place, ""), scope.report)
    items = root.value.get("stages") if isinstance(root.value, dict) else None
    return head, [] if items is None else read_stages(items, scope, columns)


def is_of(root: Node, wanted: str, report: Report) -> bool:
    """Whether the file is of the ``wanted`` kind; that it is of another goes to the report."""
    kind = _kind(root, report)
    node = root.value.get("kind") if isinstance(root.value, dict) else None
    if node is not None and not node.broken and kind != wanted:
        message = f"the file is of kind {kind}, and kind {wanted} is wanted here"
        report.add(node.place, "kind", message)
    return kind == wanted


def _kind(root: Node, report: Report) -> str | None:
    """What the file says it is, or else looks like; None where neither tells."""
    if not isinstance(root.value, dict):
        if not root.broken:
            report.add(root.place, "", f"found {shown(root)}, expected keys such as kind: pipeline")
        return None
    node = root.value.get("kind")
    if node is not None and node.value in KINDS:
        return str(node.value)
    known = f"this version knows: {', '.join(KINDS)}"
    if node is None:
        report.add(root.place, "kind", f"the key is missing; write kind: pipeline ({known})")
    elif not node.broken:
        near = closest(node.value, KINDS) if isinstance(node.value, str) else ""
        report.add(node.place, "kind", f"found {shown(node)}{near} ({known})")
    root.value["kind"] = Node(root.place, broken=True)  # said once; the rest can still be checked
    root.keys.setdefault("kind", root.place)
    if {"source", "indexes", "split"} & set(root.value):
        return "index"
    if "objective" in root.value:
        return "recipe"
    return "pipeline" if "stages" in root.value else None
