"""A YAML file as a tree in which every key and every value keeps its position.

The tree is built from the events of PyYAML's parser, so that no tag constructs anything and every
limit holds while the file is read: an alias that multiplies, a deep nest or an endless list is
refused as soon as the limit is passed. Only texts, numbers, true, false, null, lists and mappings
with text keys exist here; merge keys, other tags and further documents are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from rag.errors import InvalidFile
from rag.pipelines.report import Place, Report, joined
from rag.pipelines.scalars import Scalar, Unreadable, expand, plain, tagged, whole_characters

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
"""Values in a file, each alias counted as all that it stands for."""
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null")


@dataclass(eq=False)
class Node:
    """One value of a file and where it stands."""

    place: Place
    value: Scalar | list[Node] | dict[str, Node] = None
    keys: dict[str, Place] = field(default_factory=dict)
    """For a mapping, where each key stands."""
    broken: bool = False
    """An error in it was reported already, so that what it lacks or holds is no second one."""
    size: int = 1
    depth: int = 1
    raw: str | None = None
    """As it is written, where ``${NAME}`` was replaced; errors show this, not the secret."""
    text: str | None = None
    """What a value that was one whole ``${NAME}`` is as a text; ``value`` is what it looks like."""

    @property
    def children(self) -> list[Node]:
        """The values of a list or a mapping; none below a scalar."""
        if isinstance(self.value, dict):
            return list(self.value.values())
        return self.value if isinstance(self.value, list) else []

    def plain(self) -> Any:
        """The value in Python's own types, without the keys whose values are broken."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {k: item.plain() for k, item in self.value.items() if not item.broken}
        return self.value


def parse(data: bytes, report: Report) -> Node:
    """The one document of a YAML file; what is wrong with it goes to the ``report``.

    Raises:
        InvalidFile: the file cannot be read any further; its last problem says why.
    """
    if len(data) > MAX_BYTES:
        raise report.fatal((1, 1), f"the file is larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        good = data[: error.start].decode()
        what = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise report.fatal(_place_after(good), what) from None
    composer = _Composer(text, report)
    try:
        return composer.document()
    except yaml.reader.ReaderError as error:
        what = f"the character U+{error.character:04X} may not stand in a YAML file"
        raise report.fatal(_place_after(text[: error.position]), what) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise report.fatal(_place(mark), _syntax(error, text)) from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, InvalidFile):
            raise
        # PyYAML lets some slip through, such as chr() of an escape beyond Unicode.
        raise report.fatal(composer.here, f"YAML syntax: {error}") from None


class _Composer:
    """Builds nodes from events; the depth is bounded, so it may recurse."""

    def __init__(self, text: str, report: Report) -> None:
        self._report = report
        self._text = text
        self._loader: Any = None
        self._anchors: dict[str, Node | None] = {}
        self._count = 0

    @property
    def here(self) -> Place:
        return (1, 1) if self._loader is None else _place(self._loader.get_mark())

    def document(self) -> Node:
        self._loader = yaml.SafeLoader(self._text)
        self._loader.get_event()
        if isinstance(event := self._loader.get_event(), yaml.StreamEndEvent):
            raise self._report.fatal((1, 1), "the file is empty")
        root = self._node(self._loader.get_event(), 1, "")
        self._loader.get_event()
        event = self._loader.get_event()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._report.fatal(_place(event.start_mark), "a second document starts here; "
                                     "a file holds one")  # fmt: skip
        return root

    def _node(self, event: Any, depth: int, path: str) -> Node:
        place = _place(event.start_mark)
        if depth > MAX_DEPTH:
            raise self._report.fatal(place, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, place, depth, path)
        self._counted(1, place)
        if event.anchor:
            self._anchors[event.anchor] = None  # known, and not complete
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, place, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(place, depth, path)
        else:
            node = self._mapping(place, depth, path)
        allowed = {"ScalarEvent": _SCALARS, "SequenceStartEvent": ("seq",)}
        names = allowed.get(type(event).__name__, ("map",))
        if event.tag not in (None, "!", *(_TAG + name for name in names)):
            tag = event.tag.replace(_TAG, "!!")
            self._wrong(node, path, f"the tag {tag!r} is not known; remove it")
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _counted(self, more: int, place: Place) -> None:
        self._count += more
        if self._count > MAX_NODES:
            raise self._report.fatal(
                place, f"more than {MAX_NODES:,} values, counting each alias as what it stands for"
            )

    def _wrong(self, node: Node, path: str, message: str) -> None:
        self._report.add(node.place, path, message)
        node.value, node.broken = None, True

    def _alias(self, name: Any, place: Place, depth: int, path: str) -> Node:
        if name not in self._anchors:
            node = Node(place)
            self._wrong(node, path, f"no anchor &{name} stands before the alias *{name}")
            return node
        target = self._anchors[name]
        if target is None:
            raise self._report.fatal(place, f"the alias *{name} stands inside what it repeats")
        self._counted(target.size, place)
        if depth + target.depth - 1 > MAX_DEPTH:
            raise self._report.fatal(place, f"nested more than {MAX_DEPTH} levels deep")
        return replace(target, place=place)

    def _scalar(self, event: Any, place: Place, path: str) -> Node:
        node = Node(place)
        try:
            text, whole = expand(whole_characters(event.value))
            if "${" in event.value:
                node.raw = event.value
            tag = (event.tag or "").removeprefix(_TAG)
            if tag in _SCALARS:
                node.value = tagged(text, tag)
            elif whole:
                # In { } a variable has to stand in quotes, so quotes cannot make it a text.
                node.value, node.text = plain(text), text
            else:
                node.value = plain(text) if event.style is None and not event.tag else text
        except Unreadable as error:
            self._wrong(node, path, str(error))
        return node

    def _list(self, place: Place, depth: int, path: str) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1, f"{path}[{len(items)}]"))
        return _sized(Node(place, items), items)

    def _mapping(self, place: Place, depth: int, path: str) -> Node:
        node, values = Node(place), dict[str, Node]()
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            key_place, key = _place(event.start_mark), self._key(event, depth, path)
            below = joined(path, key or "?")
            value = self._node(self._loader.get_event(), depth + 1, below)
            if key is None:
                continue
            if key in values:
                line, column = node.keys[key]
                first = f"first at line {line}, column {column}"
                self._report.add(key_place, below, f"the key {key!r} stands twice ({first})")
                continue
            values[key], node.keys[key] = value, key_place
        node.value = values
        return _sized(node, list(values.values()))

    def _key(self, event: Any, depth: int, path: str) -> str | None:
        """The key, or None after reporting why it is none."""
        place = _place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, depth + 1, joined(path, "?"))
            self._report.add(place, path, "a key must be a text, not a list, a mapping or an alias")
            return None
        self._counted(1, place)
        try:
            key = whole_characters(event.value)
        except Unreadable as error:
            self._report.add(place, path, str(error))
            return None
        if event.anchor:
            self._anchors[event.anchor] = Node(place, key)
        if event.tag not in (None, "!", f"{_TAG}str"):
            what = f"a key has the tag {event.tag.replace(_TAG, '!!')!r}; remove it"
        elif event.style is None and event.tag is None and key == "<<":
            what = "the merge key << is not supported; write the keys out"
        elif event.style is None and event.tag is None and not _is_text(key):
            what = f"the key {key} is not a text; write it in quotes"
        else:
            return key
        self._report.add(place, path, what)
        return None


def _is_text(key: str) -> bool:
    try:
        return isinstance(plain(key), str)
    except Unreadable:  # a key is never true or false, so ``on`` is clear here
        return not key[-1].isdigit()


def _sized(node: Node, children: list[Node]) -> Node:
    node.size = 1 + sum(child.size for child in children)
    node.depth = 1 + max((child.depth for child in children), default=0)
    return node


def _place(mark: Any) -> Place:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _place_after(text: str) -> Place:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    """PyYAML's words, with what to do for the two mistakes that they do not explain."""
    message = f"YAML syntax: {error.problem}"
    if error.context:
        message += f", {error.context}"
        if error.context_mark is not None and error.context_mark is not error.problem_mark:
            message += f" that starts at line {error.context_mark.line + 1}"
    mark = error.problem_mark
    if mark is not None and "'\\t'" in str(error.problem):
        message += "; indent with spaces, not tabs"
    elif mark is not None and text[max(mark.index - 1, 0) : mark.index + 1] == "${":
        message += '; inside { } and [ ] put a variable in quotes: "${NAME}"'
    return message
