"""How good a pipeline is: data sets, measures, TREC runs and reports.

    datasets   Dataset, load: the questions, judgements and gold answers of a folder
    tables     the files that such a folder holds, checked line by line
    results    what is kept of the batches that a pipeline gives back
    judged     a ranking of passages to a run of what the judgements name
    runs       write_run, read_run, and the order that trec_eval keeps
    measures   names of measures, and the numbers
    report     evaluate: all of it together

The public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.eval.datasets import Dataset as Dataset
    from rag.eval.datasets import load as load
    from rag.eval.report import Report as Report
    from rag.eval.report import evaluate as evaluate
    from rag.eval.runs import read_run as read_run
    from rag.eval.runs import write_run as write_run

_EXPORTS = {
    "Dataset": "rag.eval.datasets",
    "Report": "rag.eval.report",
    "evaluate": "rag.eval.report",
    "load": "rag.eval.datasets",
    "read_run": "rag.eval.runs",
    "write_run": "rag.eval.runs",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rag.eval' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
