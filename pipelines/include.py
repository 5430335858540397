"""``pipeline: other.yaml`` as a stage: another file, read in its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import InvalidFile, RagError
from rag.pipelines.report import Report
from rag.pipelines.stages import Checked, Scope, relative
from rag.pipelines.validate import Spot

if TYPE_CHECKING:
    from rag.flow import SubPipeline

MAX_FILES = 100
"""Pipelines in one, each counted as often as it is included."""


def included(spot: Spot, scope: Scope, columns: Checked) -> SubPipeline | None:
    """The stage that the file named at ``spot`` stands for, or None after reporting why not.

    The file is checked with the ``columns`` before it, and its errors have their places in it.
    """
    from rag.pipelines.load import found

    name = relative(str(spot.node.value), scope.folder)
    place = spot.node.place
    try:
        path = found(name)
    except RagError as error:
        scope.report.add(place, spot.path, str(error))
        return None
    scope.count.append(None)
    if path.resolve() in scope.files:
        chain = " > ".join(file.name for file in (*scope.files, path))
        scope.report.add(place, spot.path, f"the pipeline includes itself: {chain}")
    elif len(scope.count) > MAX_FILES:
        scope.report.add(place, spot.path, f"more than {MAX_FILES} pipelines are included")
    elif not path.is_file():
        beside = scope.folder / str(spot.node.value)
        hint = f"; write ./{spot.node.value} for the one beside this file"
        message = f"{path}: no such file{hint if beside.is_file() else ''}"
        scope.report.add(place, spot.path, message)
    else:
        return _read(path, spot, scope, columns)
    return None


def _read(path: Path, spot: Spot, scope: Scope, columns: Checked) -> SubPipeline | None:
    from rag.flow import SubPipeline
    from rag.pipelines.load import pipeline_parts

    report = Report(str(path))
    inner = Scope(report, path.parent, (*scope.files, path.resolve()), scope.count)
    try:
        head, stages = pipeline_parts(path, inner, columns.within(report))
    except InvalidFile:
        head, stages = None, []  # what could not be read any further is in the report
    except RagError as error:
        scope.report.add(spot.node.place, spot.path, str(error))
        return None
    if head is None or report.problems:
        count = len(report.problems)
        what = f"the pipeline {path} has {count} error{'s' if count > 1 else ''}; see below"
        scope.report.add(spot.node.place, spot.path, what)
        scope.report.include(report)
        return None
    for key in ("spread", "resources"):
        if getattr(head, key) is not None:
            said = f"{path} has {key!r}, which the pipeline around it decides; write it there"
            scope.report.add(spot.node.place, spot.path, said)
            return None
    collection = None if head.collection is None else relative(head.collection, path.parent)
    return SubPipeline(name=head.name or path.stem, collection=collection, stages=stages)
