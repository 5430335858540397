"""The ``stages:`` of a file: each item to a stage, and the columns that they pass on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rag import registry
from rag.errors import InvalidInput, MissingColumn
from rag.nesting import FORM as _FORM
from rag.nesting import as_mapping
from rag.pipelines.report import Place, Report
from rag.pipelines.validate import Spot, shown, validated
from rag.pipelines.yaml_nodes import Node
from rag.stage import Columns, Stage, reason


@dataclass(frozen=True)
class Scope:
    """The file that is read: where problems go, and from where paths and pipelines count."""

    report: Report
    folder: Path
    files: tuple[Path, ...] = ()
    """The file, after those that include it."""
    count: list[None] = field(default_factory=list)
    """One entry for each pipeline that was included anywhere."""


class _Lenient(Columns):
    """Columns that lack nothing: what a stage writes, although it cannot read what it needs."""

    def need(self, *names: str, type: str | None = None) -> Columns:
        return self


class Checked:
    """The columns along a list of stages; knows when a stage before could not be judged."""

    def __init__(self, report: Report, columns: Columns | None = None) -> None:
        """Begin with these ``columns``; default: those of a question."""
        self._report = report
        self.columns = columns or Columns()
        self.unknown = False
        """A stage before may have written anything, so that no column is surely missing."""

    def within(self, report: Report) -> Checked:
        """The columns where a list inside a stage begins."""
        inner = Checked(report, replace(self.columns, written=frozenset()))
        inner.unknown = self.unknown
        return inner

    def after(self, stage: Stage, spot: Spot, *, quiet: bool) -> None:
        """Pass the ``stage``, and report a column that it lacks unless ``quiet``."""
        have = self.columns.at(stage.label)
        try:
            self.columns = stage.columns(have)
            return
        except MissingColumn as error:
            said = "" if self.unknown else str(error)
        except Exception as error:  # noqa: BLE001 - a plugin raises what it likes; go on
            said = "" if _lacks_a_key(stage) else reason(error)
        if said and not quiet:
            self._report.add(spot.place, spot.path, said)
        try:
            lenient = _Lenient(have.types, have.writers, have.stage, have.written)
            passed = stage.columns(lenient)
            self.columns = Columns(passed.types, passed.writers, passed.stage, passed.written)
        except Exception:  # noqa: BLE001 - reported above; what it writes is unknown
            self.unknown = True


def read_stages(
    items: Node, scope: Scope, columns: Checked | None = None, path: str = "stages"
) -> list[Stage]:
    """The stages of the list ``items``; everything wrong with any of them goes to the report.

    A stage that is wrong is left out, and the columns of the others are checked as though it were
    as near to what is written as can be: a following stage is blamed for its own errors only.

    Args:
        items: the list.
        scope: the file.
        columns: those before the list; default: those of a question.
        path: where the list stands, as errors show it.
    """
    columns = columns or Checked(scope.report)
    stages: list[Stage] = []
    for number, node in enumerate(items.value if isinstance(items.value, list) else ()):
        spot = _item(node, f"{path}[{number}]", scope.report)
        stage = None if spot is None else _stage(spot, scope, columns)
        if spot is None:
            columns.unknown = True
        if stage is not None:
            stages.append(stage)
    return stages


def _stage(spot: Spot, scope: Scope, columns: Checked) -> Stage | None:
    """The stage at ``spot``, passed on the way; None after reporting what is wrong with it."""
    if isinstance(spot.node.value, str):
        from rag.pipelines.include import included

        stage = included(spot, scope, columns)
        columns.unknown |= stage is None
        if stage is not None:
            columns.after(stage, spot, quiet=False)
        return stage
    cls, guessed = _class(spot, scope.report)
    if cls is None:
        columns.unknown = True
        return None
    node, inside = _nested(cls, spot, scope, columns)
    report = Report(scope.report.file) if guessed else scope.report
    made, wrong = validated(cls, replace(spot, node=node), report)
    if made is not None and not guessed:
        columns.after(made, spot, quiet=False)
        return made
    # What is wrong with a list inside was reported there, and what it writes is not known.
    inner = bool(wrong & inside.keys())
    columns.unknown |= "into" in wrong or inner
    quiet = guessed or "of" in wrong or inner
    columns.after(_nearest(cls, node, wrong, inside), spot, quiet=quiet)
    return None


def _nested(
    cls: type[Stage], spot: Spot, scope: Scope, columns: Checked
) -> tuple[Node, dict[str, list[Stage]]]:
    """The settings with their paths placed and each list of stages checked and written out.

    Returns:
        The settings; a list with anything wrong in it is broken there. And the good stages of
        each list.
    """
    values = spot.node.value
    keys = cls.nests(values) if isinstance(values, dict) else []
    plain = {k: v for k, v in _pairs(spot.node) if k not in keys or not isinstance(v.value, list)}
    node = _placed(replace(spot.node, value=plain), scope.folder)
    inside: dict[str, list[Stage]] = {}
    for key, items in _pairs(spot.node):
        if key not in plain and isinstance(node.value, dict):
            before = len(scope.report.problems)
            columns_ = columns.within(scope.report)
            inside[key] = read_stages(items, scope, columns_, f"{spot.path}.{key}")
            good = len(scope.report.problems) == before and not items.broken
            written = [as_mapping(stage) for stage in inside[key]] if good else None
            node.value[key] = replace(_as_node(items.place, written), broken=not good)
    return node, inside


def _pairs(node: Node) -> list[tuple[str, Node]]:
    return list(node.value.items()) if isinstance(node.value, dict) else []


def _as_node(place: Place, value: Any) -> Node:
    """A plain value as nodes that stand at one place."""
    if isinstance(value, Mapping):
        return Node(place, {k: _as_node(place, v) for k, v in value.items()},
                    dict.fromkeys(value, place))  # fmt: skip
    if isinstance(value, list | tuple):
        return Node(place, [_as_node(place, part) for part in value])
    return Node(place, value)


def _lacks_a_key(stage: Stage) -> bool:
    """Whether a stage made of what is right in wrong settings lacks a key that it requires."""
    fields = type(stage).model_fields.items()
    return any(field.is_required() and not hasattr(stage, key) for key, field in fields)


def relative(path: str, folder: Path) -> str:
    """A path that starts with ``./`` or ``../`` as from ``folder``; any other as it is."""
    return str(folder / path) if path.startswith(("./", "../")) or path in (".", "..") else path


def _placed(node: Node, folder: Path) -> Node:
    """The settings with every path that starts at the file's folder as from here."""
    if isinstance(node.value, str):
        return replace(node, value=relative(node.value, folder))
    if isinstance(node.value, list):
        return replace(node, value=[_placed(part, folder) for part in node.value])
    if isinstance(node.value, dict):
        return replace(node, value={k: _placed(part, folder) for k, part in node.value.items()})
    return node


def _name(spot: Spot) -> str:
    return spot.path.rpartition("].")[2]


def _item(node: Node, path: str, report: Report) -> Spot | None:
    """The settings of an item below its stage's name, or None after a report."""
    value = node.value
    if node.broken:
        return None
    if isinstance(value, str) and value.strip():
        return Spot(Node(node.place, {}), node.place, f"{path}.{value}")
    if not isinstance(value, dict):
        what = "an empty name" if isinstance(value, str) else shown(node)
        report.add(node.place, path, f"found {what}; {_FORM}")
        return None
    if len(value) != 1:
        found = f"the keys {', '.join(value)}" if value else shown(node)
        hint = "; begin each stage with '- ', and indent its settings below its name"
        report.add(node.place, path, f"found {found}; {_FORM}{hint if value else ''}")
        return None
    name, settings = next(iter(value.items()))
    place = node.keys[name]
    if not name.strip():
        report.add(place, path, f"found an empty name; {_FORM}")
        return None
    path = f"{path}.{name}"
    if settings.value is None and not settings.broken:
        settings = Node(settings.place, {})
    if name == "pipeline" and isinstance(settings.value, str):
        return Spot(settings, place, path)  # a file, or the name of a shipped one
    if not isinstance(settings.value, dict):
        if not settings.broken:
            what = f"found {shown(settings)}, expected settings: {name}: {{key: value}}"
            report.add(settings.place, path, what)
        settings = Node(settings.place, {}, broken=True)
    return Spot(settings, place, path)


def _class(spot: Spot, report: Report) -> tuple[type[Stage] | None, bool]:
    """The class of a stage; for an unknown name, after a report, that of the nearest, and True."""
    name = _name(spot)
    try:
        return registry.find("stages", name), False
    except InvalidInput as error:
        report.add(spot.place, spot.path, str(error))
        near = difflib.get_close_matches(name, registry.names("stages"), n=1)
    except Exception as error:  # noqa: BLE001 - importing a plugin runs its code
        report.add(spot.place, spot.path, f"the stage cannot be imported: {reason(error)}")
        return None, False
    try:
        return (registry.find("stages", near[0]) if near else None), True
    except Exception:  # noqa: BLE001 - only a guess at what was meant
        return None, True


def _nearest(
    cls: type[Stage], settings: Node, wrong: set[str], inside: Mapping[str, list[Stage]]
) -> Stage:
    """The stage without its wrong settings, to judge which columns it reads and writes."""
    good = {key: part for key, part in settings.plain().items() if key not in wrong}
    good |= {key: tuple(stages) for key, stages in inside.items()}
    try:
        return cls.model_validate(good)
    except ValueError:
        return cls.model_construct(**good)
