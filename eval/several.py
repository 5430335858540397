"""Several datasets in one table, with the mean over them: the figure of LoCoV1 and of BEIR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from rag.eval.report import Report


@dataclass(frozen=True)
class Several:
    """What a pipeline is worth on several datasets.

    Attributes:
        reports: One a dataset, at least one, in order.
    """

    reports: Sequence[Report]

    @property
    def means(self) -> dict[str, float]:
        """Each measure that all datasets have, to its mean over the datasets.

        Every dataset counts the same, however many questions it has.
        """
        first, *others = [report.measures for report in self.reports]
        shared = [name for name in first if all(name in its for its in others)]
        return {
            name: sum(report.measures[name] for report in self.reports) / len(self.reports)
            for name in shared
        }

    def table(self) -> Table:
        """A row a dataset, and the mean."""
        from rich.markup import escape
        from rich.table import Table

        names = list(dict.fromkeys(n for report in self.reports for n in report.measures))
        table = Table(title=escape(f"{self.reports[0].pipeline} on {len(self.reports)} datasets"))
        table.add_column("dataset")
        for name in (*names, "questions"):
            table.add_column(name, justify="right")
        rows = [(report.dataset, report.measures, report.questions) for report in self.reports]
        for number, (dataset, its, questions) in enumerate(rows, 1):
            values = [f"{its[name]:.4f}" if name in its else "" for name in names]
            last = number == len(rows)
            table.add_row(escape(dataset), *values, f"{questions:,}", end_section=last)
        means = self.means
        table.add_row("mean", *(f"{means[n]:.4f}" if n in means else "" for n in names), "")
        failed = sum(len(report.failed) for report in self.reports)
        if failed:
            table.caption = f"{failed:,} questions failed and count 0 (--json lists them)"
        return table

    def to_json(self) -> dict[str, Any]:
        """The mean and each report as plain values."""
        return {"mean": self.means, "datasets": [report.to_json() for report in self.reports]}
