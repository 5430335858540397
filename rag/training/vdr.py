"""The objective ``vdr``: contrastive training of VDR, and of its semi-parametric form SVDR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rag.encoders.vdr.bags import JOINT
from rag.errors import InvalidInput
from rag.training import bi_encoder_rows as reading
from rag.training import bi_encoder_score as scoring
from rag.training.objective import Objective, Scores, Task

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Split


class VDR(Objective, name="vdr"):
    """Train the towers of a VDR (``rag.encoders.vdr``) by its contrastive loss.

    The loss has two terms (VDR) or, with ``semi``, four (SVDR): ``rag.encoders.vdr.losses``. Its
    scores are dot products at temperature 1, and in a batch the passages of all questions, and
    their hard negatives, are negatives of each question; the other way, the questions of all
    passages. Binary bags stand in the loss, so that the same vectors search a bag of tokens.

    ``pairs: titles`` learns without questions: a document's title asks for its text. The paper
    does so with 20 million pseudo-pairs (HLP) before it learns from questions.

    ``model`` is any BERT, or a folder of a VDR that learns on. What is saved is opened by
    ``load_encoder``; a shared tower by sentence-transformers too.
    """

    pairs: Literal["questions", "titles"] = Field(
        "questions", description="What is learned from: judged questions, or titles of documents."
    )
    semi: bool = Field(False, description="Four terms (SVDR) in place of two (VDR).")
    shared: bool = Field(False, description="One tower for questions and passages.")
    negatives: str | None = Field(
        None, min_length=1, description="The file of hard negatives that rag mine wrote."
    )
    hard: int = Field(1, gt=0, description="Hard negatives of a question in a batch.")
    topk: int = Field(768, ge=-1, description="Terms of a vector that are kept; -1: all.")
    shift: int = Field(999, ge=0, description="Tokens at the vocabulary's beginning left out.")
    question_length: int = Field(128, gt=2, description="The most tokens of a question.")
    passage_length: int = Field(256, gt=2, description="The most tokens of a passage.")
    candidates: int | None = Field(
        None, gt=0, description="Documents that held-back questions are asked of; default: all."
    )

    @model_validator(mode="after")
    def _titles_have_no_negatives(self) -> VDR:
        if self.pairs == "titles" and self.negatives is not None:
            raise ValueError("titles have no hard negatives; leave out negatives, or pairs")
        return self

    def files(self, model: str) -> list[Path]:
        """Those of the model, and the negatives."""
        return super().files(model) + ([Path(self.negatives)] if self.negatives else [])

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the towers and build the rows.

        Raises:
            NotFound, BadRow, InvalidInput: the model or the negatives cannot be used.
        """
        if self.pairs == "titles":
            rows = reading.title_rows(split.train.documents)
            said = [f"{len(rows):,} pairs of a title and a text, without judgements."]
            if not rows:
                raise InvalidInput("pairs: titles: no document has both a title and a text")
        else:
            mined = None if self.negatives is None else Path(self.negatives)
            rows, said = reading.question_rows(split, mined)
        return VDRTask(self, _towers(self, model), split, rows, said, seed)


def _towers(settings: VDR, model: str) -> Any:
    """The towers to train and their tokenizer, by their BERT or as a VDR had them."""
    import copy

    from transformers import AutoTokenizer

    from rag.encoders.load import folder_of_encoder
    from rag.encoders.vdr.bags import is_vdr, tokenizer_of, tower_settings
    from rag.encoders.vdr.checkpoint import from_bert, load
    from rag.models.load import quiet

    folder = folder_of_encoder(model)
    own = {"shift_vocab_num": settings.shift, "topk": settings.topk}
    if is_vdr(folder):
        towers = load(folder)
        tokenizer = tokenizer_of(folder, tower_settings(folder)["encoder_p"])
    else:
        one = from_bert(folder, **own, max_len=settings.passage_length)
        towers = {"encoder_q": one, "encoder_p": one}
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    one, other = towers["encoder_q"], towers["encoder_p"]
    if settings.shared and one is not other:
        raise InvalidInput(f"{model}: has two towers, and the recipe says shared: true")
    if not settings.shared and one is other:
        other = copy.deepcopy(one)
    one.config.max_len = settings.question_length
    other.config.max_len = settings.passage_length
    for tower in (one, other):
        tower.config.shift_vocab_num, tower.config.topk = settings.shift, settings.topk
    return one, other, tokenizer


class VDRTask(Task):
    """An opened objective ``vdr``."""

    def __init__(
        self,
        settings: VDR,
        towers: Any,
        split: Split,
        rows: list[reading.Row],
        said: list[str],
        seed: int,
    ) -> None:
        """Hold the towers (question, passage, tokenizer), the data and the rows."""
        from rag.training.vdr_towers import Towers

        self._settings, self._split, self._said, self._seed = settings, split, said, seed
        questions, passages, self._tokenizer = towers
        self.model = Towers(questions, passages)
        self.rows = rows

    def order(self, draw: np.random.Generator) -> Sequence[int]:
        """Rows of one passage far apart."""
        return reading.spread([row.positive for row in self.rows], draw)

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """Tokens of questions, and of passages: the positives, then the hard negatives."""
        titles = self._settings.pairs == "titles"
        names = [row.positive for row in rows]
        hard = [reading.sample(row, self._settings.hard, draw)[0] for row in rows]
        names += [name for its in hard for name in its]
        documents = self._split.documents
        texts = [
            documents[name].text if titles else scoring.passage_text(documents[name], JOINT)
            for name in names
        ]
        questions = self._tokens([row.question for row in rows], self._settings.question_length)
        return {"questions": questions, "passages": self._tokens(texts)}

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """``vdr_loss`` of the batch."""
        from rag.encoders.vdr.losses import vdr_loss
        from rag.encoders.vdr.views import bags

        asked, read = model(batch["questions"], batch["passages"])
        binary = [
            bags(its["input_ids"], its["attention_mask"], asked.shape[1], self._settings.shift)
            for its in (batch["questions"], batch["passages"])
        ]
        # Sums over the vocabulary stay in fp32 where the passes are in bf16.
        return vdr_loss(
            asked.float(), read.float(), *binary, topk=self._settings.topk, semi=self._settings.semi
        )

    def score(self) -> Scores:
        """nDCG@10 by vectors as ``load_encoder`` gives them: cut to their top terms."""
        from rag.encoders.vdr import VDREncoder

        names = self._candidates()
        device = str(next(self.model.parameters()).device)
        encoder = VDREncoder("trained", self._by_tower(), self._tokenizer, device)
        documents = self._split.documents
        texts = [scoring.passage_text(documents[name], JOINT) for name in names]
        asked = encoder.encode(list(self._split.held.questions.values()), "query")
        scores = (asked @ encoder.encode(texts, "document").T).toarray()
        return scoring.ndcg(self._split, names, scores)

    def references(self) -> dict[str, Mapping[str, float]]:
        """BM25 over the same documents."""
        return {"BM25": scoring.bm25(self._split, self._candidates())}

    def notes(self) -> list[str]:
        """What the rows are, and how many documents are ranked."""
        return [*self._said, f"Scores are of {len(self._candidates()):,} documents."]

    def save(self, folder: Path) -> None:
        """One tower as sentence-transformers saves it, two in the form that VDR is published in."""
        from rag.encoders.vdr import VDREncoder
        from rag.models.load import quiet

        encoder = VDREncoder("trained", self._by_tower(), self._tokenizer, "cpu")
        with quiet():
            if self._settings.shared:
                tower = encoder.sentence_transformer("encoder_p")
                tower.save(str(folder), create_model_card=False)
            else:
                encoder.save(folder)

    def _by_tower(self) -> dict[str, Any]:
        return {"encoder_q": self.model.questions, "encoder_p": self.model.passages}

    def _candidates(self) -> list[str]:
        return scoring.candidates(self._split, self._settings.candidates, self._seed)

    def _tokens(self, texts: list[str], longest: int | None = None) -> dict[str, Any]:
        most = longest or self._settings.passage_length
        made = self._tokenizer(
            texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return {name: made[name] for name in ("input_ids", "attention_mask")}
