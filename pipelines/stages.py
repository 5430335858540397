"""The ``stages:`` of a file: each item to a stage, and the columns that they pass on."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from rag import registry
from rag.errors import InvalidInput, MissingColumn
from rag.pipelines.report import Report
from rag.pipelines.validate import Spot, shown, validated
from rag.pipelines.yaml_nodes import Node
from rag.stage import Columns, Stage, reason

_FORM = "a stage is a name, or one name with its settings: 'bm25: {top_k: 100}'"


class _Lenient(Columns):
    """Columns that lack nothing: what a stage writes, although it cannot read what it needs."""

    def need(self, *names: str, type: str | None = None) -> Columns:
        return self


class _Checked:
    """The columns along the stages; knows when a stage before could not be judged."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._columns = Columns()
        self.unknown = False
        """A stage before may have written anything, so that no column is surely missing."""

    def after(self, stage: Stage, spot: Spot, *, quiet: bool) -> None:
        """Pass the ``stage``, and report a column that it lacks unless ``quiet``."""
        have = self._columns.at(stage.label)
        try:
            self._columns = stage.columns(have)
            return
        except MissingColumn as error:
            said = "" if self.unknown else str(error)
        except Exception as error:  # noqa: BLE001 - a plugin raises what it likes; go on
            said = "" if _lacks_a_key(stage) else reason(error)
        if said and not quiet:
            self._report.add(spot.place, spot.path, said)
        try:
            lenient = _Lenient(have.types, have.writers, have.stage)
            passed = stage.columns(lenient)
            self._columns = Columns(passed.types, passed.writers, passed.stage)
        except Exception:  # noqa: BLE001 - reported above; what it writes is unknown
            self.unknown = True


def read_stages(items: Node, report: Report, folder: Path) -> list[Stage]:
    """The stages of the list ``items``; everything wrong with any of them goes to the report.

    A stage that is wrong is left out, and the columns of the others are checked as though it were
    as near to what is written as can be: a following stage is blamed for its own errors only.
    """
    stages: list[Stage] = []
    columns = _Checked(report)
    for number, node in enumerate(items.value if isinstance(items.value, list) else ()):
        spot = _item(node, f"stages[{number}]", report)
        if spot is None:
            columns.unknown = True
            continue
        cls, guessed = _class(spot, report)
        if cls is None:
            columns.unknown = True
            continue
        placed = replace(spot, node=_placed(spot.node, folder))
        stage, wrong = validated(cls, placed, Report(report.file) if guessed else report)
        if stage is not None and not guessed:
            stages.append(stage)
            columns.after(stage, spot, quiet=False)
            continue
        columns.unknown |= "into" in wrong
        quiet = guessed or "of" in wrong
        columns.after(_nearest(cls, spot.node, wrong), spot, quiet=quiet)
    return stages


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
    return spot.path.partition(".")[2]


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


def _nearest(cls: type[Stage], settings: Node, wrong: set[str]) -> Stage:
    """The stage without its wrong settings, to judge which columns it reads and writes."""
    good = {key: part for key, part in settings.plain().items() if key not in wrong}
    try:
        return cls.model_validate(good)
    except ValueError:
        return cls.model_construct(**good)
