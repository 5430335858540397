"""Measures by name, and their values.

Retrieval is measured by ir-measures (and through it by trec_eval), answers here. The mean is over
all questions that could be measured: a question without results counts 0, as with trec_eval's
``-c``; one without gold answers does not count in the mean of EM and F1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import ir_measures

from rag.errors import InvalidInput
from rag.eval.datasets import Dataset
from rag.readers.words import f1, normalize

RETRIEVAL = ("nDCG@10", "R@100", "RR@10")
ANSWERS = ("EM", "F1")
TREC_NAMES = (
    "P", "Rprec", "bpref", "infAP", "iprec_at_recall", "map", "map_cut", "ndcg", "ndcg_cut",
    "num_q", "num_rel", "num_rel_ret", "num_ret", "recall", "recip_rank", "set_F", "set_P",
    "set_map", "set_recall", "success",
)  # fmt: skip
"""The measures of trec_eval that ir-measures knows; a cut-off follows after ``_`` or a dot."""

_TREC = re.compile(rf"({'|'.join(TREC_NAMES)})([_.][0-9.]+(,[0-9.]+)*)?")


class Values(NamedTuple):
    """The mean of each measure, and its value for each question."""

    means: dict[str, float]
    each: dict[str, dict[str, float]]


def parse(names: Iterable[str]) -> list[str]:
    """The measures by ir-measures' names, each once; trec_eval's spellings are understood.

    ``ndcg_cut_10`` is ``nDCG@10``, ``recip_rank`` is ``RR``, ``recall_5,10`` is two measures.

    Raises:
        InvalidInput: a name is unknown (the message has the nearest) or needs a cut-off, or the
            measure cannot be computed with what is installed.
    """
    parsed: dict[str, None] = {}
    for name in names:
        if name in ANSWERS:
            parsed[name] = None
        else:
            parsed |= dict.fromkeys(str(measure) for measure in _measures(name))
    return list(parsed)


def choose(names: Sequence[str] | None, dataset: Dataset, writes: Iterable[str]) -> list[str]:
    """The measures asked for, or those that the dataset and the columns written allow.

    Raises:
        InvalidInput: a measure asked for cannot be computed, or none can; says why.
    """
    no_retrieval, no_answers = _obstacles(dataset, set(writes))
    if isinstance(names, str):
        raise InvalidInput(f"measures is a list of names; write [{names!r}]")
    if names:
        parsed = parse(names)
        for name in parsed:
            obstacle = no_answers if name in ANSWERS else no_retrieval
            if obstacle:
                raise InvalidInput(f"{name} cannot be measured: {obstacle}")
        return parsed
    if no_retrieval and no_answers:
        raise InvalidInput(f"nothing can be measured: {no_retrieval}, and {no_answers}")
    return [*(() if no_retrieval else RETRIEVAL), *(() if no_answers else ANSWERS)]


def retrieval(
    names: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Sequence[tuple[str, float]]],
) -> Values:
    """The measures over all questions of ``qrels``; scores must fall strictly in their order."""
    measures = {name: ir_measures.parse_measure(name) for name in names}
    found = {query: dict(run[query]) for query in qrels if run.get(query)}
    grades = {query: dict(its) for query, its in qrels.items()}
    evaluated = _provider().evaluator(measures.values(), grades).calc(found)
    each: dict[str, dict[str, float]] = {query: {} for query in qrels}
    spelt = {measure: name for name, measure in measures.items()}
    for metric in evaluated.per_query:
        each[metric.query_id][spelt[metric.measure]] = float(metric.value)
    return Values({n: float(evaluated.aggregated[m]) for n, m in measures.items()}, each)


def answers(
    names: Sequence[str],
    gold: Mapping[str, Sequence[str]],
    given: Mapping[str, str | None],
) -> Values:
    """EM and F1 after SQuAD's normalisation: the best over a question's gold answers.

    No answer (None) counts 0. The mean is over the questions of ``gold``.
    """
    each: dict[str, dict[str, float]] = {}
    for query, texts in gold.items():
        answer = given.get(query)
        each[query] = {
            name: 0.0 if answer is None else max(_RULES[name](answer, text) for text in texts)
            for name in names
        }
    means = {name: sum(values[name] for values in each.values()) / len(each) for name in names}
    return Values(means, each)


def _exact(answer: str, gold: str) -> float:
    return float(normalize(answer) == normalize(gold))


_RULES: dict[str, Callable[[str, str], float]] = {"EM": _exact, "F1": f1}


def _obstacles(dataset: Dataset, writes: set[str]) -> tuple[str, str]:
    """Why neither retrieval nor answers can be measured; empty where they can."""
    retrieval = answers = ""
    if not dataset.qrels:
        retrieval = f"{dataset.name} has no judgements (qrels)"
    elif "documents" not in writes:
        retrieval = "the pipeline writes no column 'documents'"
    if not dataset.answers:
        answers = f"{dataset.name} has no gold answers (qa.jsonl)"
    elif "answer" not in writes:
        answers = "the pipeline writes no column 'answer'"
    return retrieval, answers


@cache
def _provider() -> Any:
    # Named one by one, so that what is measured does not depend on what else is installed.
    kept = (
        ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco, ir_measures.compat,
    )  # fmt: skip
    return ir_measures.providers.FallbackProvider(kept)


def _measures(name: str) -> list[Any]:
    try:
        if _TREC.fullmatch(name):
            measures = list(ir_measures.parse_trec_measure(name))
        else:
            measures = [ir_measures.parse_measure(name)]
        for measure in measures:
            measure.validate_params()
    except NameError:
        raise InvalidInput(f"unknown measure {name!r}; {_near(name)}") from None
    except (ValueError, TypeError, AssertionError, KeyError):
        raise InvalidInput(
            f"measure {name!r} is not complete; write it as in nDCG@10, AP or P(rel=2)@5"
        ) from None
    for measure in measures:
        _check(name, measure)
    return measures


def _check(name: str, measure: Any) -> None:
    for key, value in measure.params.items():
        # trec_eval ends the whole process at a cut-off of 0.
        if isinstance(value, bool) != (key in ("judged_only", "normalize")) or (
            key in ("cutoff", "rel") and value < 1
        ):
            raise InvalidInput(f"measure {name!r}: {key} is {value}, and must be 1 or more")
    if not _provider().supports(measure):
        raise InvalidInput(f"measure {name!r} is not among those that can be computed here")


def _near(name: str) -> str:
    base, mark, rest = re.match(r"([^@(]*)([@(]?)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    computed = {m.NAME for provider in _provider().providers for m in provider.SUPPORTED_MEASURES}
    registry = ir_measures.measures.registry.items()
    known = [*ANSWERS, *(key for key, kind in registry if kind.NAME in computed)]
    known += [] if mark else TREC_NAMES
    folded: dict[str, str] = {}
    for spelling in known:
        folded.setdefault(spelling.lower(), spelling)
    near = difflib.get_close_matches(base.lower(), folded, n=3)
    if not near:
        return "for example nDCG@10, R@100, RR@10, AP, P@5, EM or F1"
    return "did you mean " + " or ".join(f"{folded[match]}{mark}{rest}" for match in near) + "?"
