"""Where the sentences of a text lie, by rules: no model, no list to download, no state.

A sentence ends

1. at a blank line, whatever precedes it;
2. after the full-width stops of Chinese and Japanese, with or without a space behind them;
3. after ``. ! ?`` and their like (a run counts as one), followed by whitespace or the end of the
   text. Closing quotes, brackets and citation marks such as ``[12]`` still belong to the sentence.

The third rule has exceptions. There is no end

- after an ellipsis, or after a stop with a closing quote or bracket, if the next word is in lower
  case: ``"Really?" she asked.``
- after a list mark that begins the sentence: ``1. First``
- after a single full stop that belongs to a word before it:
  - a title or a sign that needs what follows: ``Mr.``, ``e.g.``, ``vs.``
  - an initial or a dotted abbreviation, unless a word follows that commonly begins a sentence:
    ``J. Smith``, ``the U.S. Army``, but ``in the U.S. The``
  - an abbreviation that may end a sentence, or a short word without vowels, unless a capital
    follows: ``etc. and``, ``No. 5``, but ``etc. The``

The rules are for edited text in languages that write with stops. What they get wrong joins two
sentences more often than it cuts one, which for passages and citations is the lesser evil.
"""

from __future__ import annotations

import re

_CLOSERS = r"""["'”’»›)\]}」』）】〉》]"""
_OPENERS = r"""["'“‘«‹(\[{「『（【〈《¿¡]*+"""

# Possessive quantifiers keep each alternative linear in the length of the text.
_BREAK = re.compile(
    rf"""
      (?P<blank> \n [^\S\n]*+ \n | \u2029 )
    | (?P<wide> [。！？｡]++ {_CLOSERS}*+ )
    | (?P<stop> (?<![.!?…‼⁇⁈⁉؟۔।॥።]) [.!?…‼⁇⁈⁉؟۔।॥።]++ )
      (?P<close> (?: {_CLOSERS} | \[\d{{1,4}}\] )*+ )
      (?= \s | \Z )
    """,
    re.VERBOSE,
)
_NEXT = re.compile(rf"\s*+{_OPENERS}(?P<first>\S?)")
_VISIBLE = re.compile(r"\S")
_WORD = re.compile(r"[\w.&-]+\Z")
_MARK = re.compile(r"[(\[]?(?:\d{1,3}|[A-Za-z])")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_VOWEL = re.compile(r"[aeiouyàáâäåæèéêëìíîïòóôöøùúûüœ\d]|[^\x00-\u024f]")

_NEEDS_MORE = re.compile(
    r"mrs?|m[sx]|dr|prof|st|sgt|ca?pt|lt|col|gen|maj|cmdr|adm|rev|hon|gov|sen|rep|pres|messrs|mme"
    r"|mlle|fr|mt|e\.?g|i\.e|vs|cf|viz|ca|approx|resp|incl|esp|nr|bzw|z\.b|d\.h|u\.a|p\.ej"
)
_MAY_END = re.compile(
    r"etc|inc|ltd|co|corp|bros|jr|sr|nos?|vols?|figs?|eqs?|sec|ch|art|pp|eds?|trans|dept|univ"
    r"|assn|est|min|max|al|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|sat"
    r"|sun|ave|blvd|rd|hwy|sq|ft|ph\.d|usw"
)
_STARTER = re.compile(
    r"\s*+" + _OPENERS + r"(?:The|A|An|In|On|At|It|Its|He|She|They|We|You|I|This|That|These|Those|"
    r"There|His|Her|Their|Our|My|But|And|Or|So|However|Although|As|If|When|While|After|Before|"
    r"Since|For|From|By|With|Then|What|Who|Why|How|Where|Which|Some|Many|Most|All|Both|One|No|"
    r"Not|Yes|To|Also|During|Despite|According|Today)\b(?![.&])"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of ``text`` as spans ``(start, end)`` in code points, in order.

    Spans do not overlap, begin and end with a character that is not whitespace, and leave nothing
    but whitespace between them. A text of whitespace has none.
    """
    spans: list[tuple[int, int]] = []
    start = _visible(text, 0)
    for match in _BREAK.finditer(text):
        if match.start() < start or not _ends(text, start, match):
            continue
        end = match.end()
        if match["blank"]:
            end = start + len(text[start : match.start()].rstrip())
        spans.append((start, end))
        start = _visible(text, match.end())
    if start < len(text):
        spans.append((start, start + len(text[start:].rstrip())))
    return spans


def _visible(text: str, at: int) -> int:
    """The first character from ``at`` on that is not whitespace; the end if there is none."""
    match = _VISIBLE.search(text, at)
    return match.start() if match else len(text)


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sentence from ``start`` ends at ``match``."""
    stop = match["stop"]
    if not stop:
        return True
    at, end = match.span("stop")
    following = _NEXT.match(text, match.end())
    first = following["first"] if following else ""
    if first.islower() and (match["close"] or stop.startswith(("…", ".."))):
        return False
    if stop != ".":
        return True
    if end - start <= 5 and _MARK.fullmatch(text, start, at):
        return not first
    word = _WORD.search(text, max(start, at - 24), at)
    return word is None or not first or _word_ends(text, word[0], match.end(), first)


def _word_ends(text: str, word: str, end: int, first: str) -> bool:
    """Whether a full stop after ``word`` ends a sentence that is not the last.

    Args:
        text: The whole text.
        word: What stands before the stop.
        end: Where the sentence would end.
        first: The first letter or digit of what follows.
    """
    lower = word.lower()
    if _NEEDS_MORE.fullmatch(lower):
        return False
    if _INITIALS.fullmatch(word):
        return _STARTER.match(text, end) is not None
    if _MAY_END.fullmatch(lower) or (len(word) <= 5 and not _VOWEL.search(lower)):
        return not (first.islower() or first.isdigit())
    return True
