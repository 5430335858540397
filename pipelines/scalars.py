"""What a scalar of a YAML file means: a fixed, small reading of plain words, and ``${NAME}``.

Plain words are read as YAML 1.2 does, without the surprises of YAML 1.1: ``014``, ``0x1f``,
``1_000``, ``1:30`` and ``2020-01-01`` are texts, ``1e-3`` is a number, and ``yes`` or ``off``,
which YAML 1.1 takes for true and false, are refused rather than guessed.
"""

from __future__ import annotations

import os
import re

Scalar = str | int | float | bool | None

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: dict[str, Scalar] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
_UNCLEAR = re.compile("yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Unreadable(ValueError):
    """A scalar cannot be read; the message says what to write."""


def plain(text: str) -> Scalar:
    """The value of a word that stands without quotes.

    Raises:
        Unreadable: it is ``yes``, ``no``, ``on`` or ``off``, or a number of thousands of digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _UNCLEAR.fullmatch(text):
        raise Unreadable(f"found {text}; write true or false, or for the text '{text}' in quotes")
    if _INT.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # Python reads no integers beyond some thousands of digits
            raise Unreadable(f"a number of {len(text)} digits is too long") from None
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float("-inf" if text[0] == "-" else "inf")
    return text


def whole_characters(text: str) -> str:
    """The text with surrogate pairs as the characters they stand for, as JSON escapes write them.

    Raises:
        Unreadable: half of a pair stands alone.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise Unreadable("half of a surrogate pair is no character") from None


def tagged(text: str, tag: str) -> Scalar:
    """The value under an explicit tag: ``str``, ``int``, ``float``, ``bool`` or ``null``.

    Raises:
        Unreadable: the text is no such value.
    """
    if tag == "str":
        return text
    value = plain(text)
    if tag == "float" and type(value) is int:
        return float(value)
    if type(value).__name__ != {"null": "NoneType"}.get(tag, tag):
        raise Unreadable(f"{text!r} is no !!{tag}")
    return value


def expand(text: str) -> tuple[str, bool]:
    """The text with each ``${NAME}`` replaced, and whether it was one variable and nothing else.

    ``$${`` stands for the two characters ``${``.

    Raises:
        Unreadable: a variable is not set, or what follows ``${`` is no name.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if not match[2] or not _NAME.fullmatch(name):
            raise Unreadable(
                f"{match[0][:40]!r} is no environment variable; write ${{NAME}}, "
                "or $${ for the two characters ${"
            )
        if name not in os.environ:
            raise Unreadable(f"the environment variable {name} is not set")
        return os.environ[name]

    whole = _VARIABLE.fullmatch(text)
    return _VARIABLE.sub(value, text), whole is not None and whole[1] is not None
