"""What each family of models is asked."""

from __future__ import annotations

from rag.indexers.layout import TITLE_ENDS
from rag.retrievers.seal.family import FAMILIES


def test_prompts_of_each_family() -> None:
    assert FAMILIES.keys() == TITLE_ENDS.keys()
    assert FAMILIES["bart"].prompts(" who {x}? ") == (" who {x}? || body", " who {x}? || title")
    assert FAMILIES["bart"].prompts("who", value=True)[0] == " who || body || +"
    assert FAMILIES["t5"].prompts("who")[1] == "who || title"
    assert FAMILIES["causal"].prompts("who") == ("Question: who\nPassage:", "Question: who\nTitle:")
    assert FAMILIES["causal"].prompts(" ")[0] == "Question:\nPassage:"
