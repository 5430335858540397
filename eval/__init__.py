"""How good a pipeline is: data sets, measures, TREC runs and reports.

    datasets   Dataset, load: the questions, judgements and gold answers of a folder
    tables     the files that such a folder holds, checked line by line
    results    what is kept of the batches that a pipeline gives back
    judged     a ranking of passages to a run of what the judgements name
    runs       write_run, read_run, and the order that trec_eval keeps
    measures   names of measures, and the numbers
    report     evaluate: all of it together
    several    many datasets in one table, and the mean over them

The public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.eval.datasets import Dataset as Dataset
    from rag.eval.datasets import load as load
    from rag.eval.report import Report as Report
    from rag.eval.report import evaluate as evaluate
    from rag.eval.runs import read_run as read_run
    from rag.eval.runs import write_run as write_run
    from rag.eval.several import Several as Several

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Dataset": "datasets",
        "Report": "report",
        "Several": "several",
        "evaluate": "report",
        "load": "datasets",
        "read_run": "runs",
        "write_run": "runs",
    },
)
