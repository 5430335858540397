"""The demo: index 240 passages, answer five questions with citations, measure on 1,190.

`make demo` runs this file. Above each step it prints the command that does the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import rag.pipelines
from rag import Answer, Citation, Collection, Pipeline
from rag import eval as evaluation
from rag.eval import measures

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "examples/xquad-en"
WIKI = ".demo/wiki"
AROUND = 160  # characters of the passage that are shown on either side of a citation

console = Console(highlight=False)


def main() -> None:
    """Index, ask, measure."""
    os.chdir(ROOT)
    heading("1. Index the passages", f"rag index {SOURCE} --out {WIKI}")
    wiki, _ = Collection.build(SOURCE, WIKI)
    console.print(f"{WIKI} holds {len(wiki)} paragraphs of Wikipedia and one index of their words.")

    heading("2. Answer five questions", f'rag ask "QUESTION" -c {WIKI} -p bm25-qa')
    console.print("This is bm25-qa, one of the pipelines that come with the package:\n")
    show_yaml("bm25-qa")
    console.print(
        "\nThe questions are the first ones about every tenth article, a rule that was fixed "
        "before any answer was seen. The language model is small (135 million parameters) and "
        "makes mistakes; the citations are there to find them.\n"
    )
    questions = first_of_every_tenth_article(wiki)
    with Pipeline.load("bm25-qa", collection=wiki) as pipeline:
        answers = [ask(pipeline, wiki, row["question"]) for row in questions]

    heading("3. Measure on all questions", f"rag eval {SOURCE} -c {WIKI} -p bm25-extract")
    measure(wiki, questions, answers)
    console.print(generated(questions, answers))


def heading(text: str, command: str) -> None:
    """Print what comes next, and the command for it."""
    console.print(f"\n[bold]{text}[/bold]")
    console.print(Text(f"$ {command}\n", style="cyan"))


def show_yaml(name: str) -> None:
    """Print a pipeline that comes with the package."""
    text = Path(rag.pipelines.__file__).with_name(f"{name}.yaml").read_text("utf-8")
    console.print(
        Padding(Syntax(text.strip(), "yaml", background_color="default", word_wrap=True), (0, 2))
    )


def first_of_every_tenth_article(wiki: Collection) -> list[dict[str, Any]]:
    """The first question about each of the articles 1, 11, 21, 31 and 41 of the source."""
    titles = {passage["id"]: passage["title"] for passage in wiki.passages()}
    first: dict[str, dict[str, Any]] = {}
    for line in Path(SOURCE, "qa.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        first.setdefault(titles[row["positive_ids"][0]], row)
    return list(first.values())[::10]


def ask(pipeline: Pipeline, wiki: Collection, question: str) -> Answer:
    """Ask, and print the answer with the passages that it cites."""
    console.print(Text(f"Q  {question}", style="bold"))
    answer = pipeline.ask(question)
    console.print(Text(f"A  {answer.text or '(no answer)'}", style="bold green"))
    for citation in answer.citations:
        console.print(Padding(cited(citation, wiki), (0, 0, 0, 3)))
    if not answer.citations:
        console.print("   (cites no passage)")
    console.print(Text(f"   {answer.route or ''}\n", style="dim"))
    return answer


def cited(citation: Citation, wiki: Collection) -> Text:
    """The title, the supporting sentence, and the sentence again in its passage."""
    snapshot = wiki.snapshot()
    text = snapshot.rows(snapshot.numbers([citation.id]), ["text"])["text"][0].as_py()
    before, after = text[: citation.start], text[citation.end :]
    shown = Text(f"[{citation.marker}] {citation.title}", style="magenta")
    shown.append(f", passage {citation.id}\n")
    shown.append(f"supporting sentence: “{text[citation.start : citation.end]}”\n", "italic")
    shown.append("in the passage: ", "dim")
    shown.append(("…" if before[:-AROUND] else "") + before[-AROUND:], "dim")
    shown.append(text[citation.start : citation.end], "underline")
    shown.append(after[:AROUND] + ("…" if after[AROUND:] else ""), "dim")
    return shown


def measure(
    wiki: Collection, questions: Sequence[dict[str, Any]], answers: Sequence[Answer]
) -> None:
    """Print a table whose every row says which pipeline it measured, and on how many questions."""
    columns = ("nDCG@10", "R@100", "EM", "F1")
    table = Table("pipeline", "measured", "questions", *columns)
    dataset = evaluation.load(SOURCE)
    rows = {"bm25": "retrieval", "bm25-extract": "retrieval, extract"}
    for name, what in rows.items():
        with Pipeline.load(name, collection=wiki) as pipeline:
            report = evaluation.evaluate(dataset, pipeline)
        found = (report.measures.get(column) for column in columns)
        cells = ("" if value is None else f"{value:.3f}" for value in found)
        table.add_row(name, what, f"{report.questions:,}", *cells)
    gold = {row["id"]: row["answers"] for row in questions}
    given = {row["id"]: answer.text for row, answer in zip(questions, answers, strict=True)}
    means = measures.answers(["EM", "F1"], gold, given).means
    cells = ("", "", f"{means['EM']:.3f}", f"{means['F1']:.3f}")
    table.add_row("bm25-qa", "generate", str(len(gold)), *cells)
    console.print(table)
    console.print(
        "EM asks for exactly the words of a gold answer, which are few; extract answers with a "
        "whole sentence and the model with one of its own, so EM is low and F1 counts the words "
        "shared. Five questions are an example, not a measurement."
    )


def generated(questions: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> Table:
    """The five generated answers beside the gold ones."""
    title = "\nThe answers of bm25-qa beside the gold ones"
    table = Table("question", "bm25-qa", "gold", title=title, title_justify="left")
    for row, answer in zip(questions, answers, strict=True):
        gold = " / ".join(dict.fromkeys(row["answers"]))
        table.add_row(Text(row["question"]), Text(answer.text or ""), Text(gold))
    return table


if __name__ == "__main__":
    main()
