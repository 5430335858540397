"""The SVG of a pipeline: every box is as large as its text, so nothing overlaps.

All texts stand in a fixed-width font, whose cells are at most 0.62 of its size wide; so the size of
a text is known here, without the font.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from rag.pipelines.draw_plan import Box, Lane, cells, wrapped

SIZE, TITLE = 12, 14
LINE = 17
"""Pixels from line to line."""
PAD = 12
ARROW = 22
"""The length of an arrow without a label."""
LABEL = 40
"""Cells of a line of an arrow's label."""

_STYLE = """\
    .page { fill: #ffffff; }
    .stage { fill: #ddf4ff; stroke: #0969da; }
    .group { fill: #f6f8fa; stroke: #8c959f; }
    .lane { fill: #ffffff; stroke: #8c959f; stroke-dasharray: 4 3; }
    .end { fill: #dafbe1; stroke: #1a7f37; }
    .line { fill: none; stroke: #57606a; stroke-width: 1.5; }
    .tip { fill: #57606a; }
    text { fill: #1f2328; font-size: 12px; white-space: pre; }
    .title { font-size: 14px; font-weight: 600; }
    .columns { fill: #57606a; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      .stage { fill: #0c2d6b; stroke: #58a6ff; }
      .group { fill: #161b22; stroke: #6e7681; }
      .lane { fill: #0d1117; stroke: #6e7681; }
      .end { fill: #033a16; stroke: #3fb950; }
      .line { stroke: #8b949e; }
      .tip { fill: #8b949e; }
      text { fill: #e6edf3; }
      .columns { fill: #9198a1; }
    }"""

_HEAD = (
    'xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" '
    "font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\""
)
_TIP = (
    '  <defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
    'markerHeight="7" orient="auto"><path class="tip" d="M0 0L10 5L0 10z"/></marker></defs>'
)


def _wide(text: str, size: int = SIZE) -> int:
    return int(cells(text) * size * 0.62) + 1


@dataclass(frozen=True)
class _Size:
    """How far something reaches to the left and to the right of its arrow's line, and down."""

    left: int
    right: int
    height: int


@dataclass
class _Sheet:
    parts: list[str] = field(default_factory=list)

    def rect(self, kind: str, x: int, y: int, width: int, height: int, round_: int = 6) -> None:
        place = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{round_}"'
        self.parts.append(f'<rect class="{kind}" {place}/>')

    def text(self, kind: str, x: int, y: int, text: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>')

    def arrow(self, x: int, y: int, columns: Sequence[str], floor: int = 0) -> int:
        """An arrow down from (x, y), to ``floor`` at least, with its label; where it ends."""
        lines, end = _label(columns), max(y + _arrow_height(columns), floor)
        self.parts.append(f'<path class="line" d="M{x} {y}V{end - 1}" marker-end="url(#tip)"/>')
        for number, line in enumerate(lines):
            self.text("columns", x + 10, y + 18 + LINE * number, line)
        return end


def document(lane: Lane, given: Sequence[str], ends: tuple[str, str]) -> str:
    """The SVG of a pipeline: ``given`` are its first columns, ``ends`` what is above and below."""
    sheet, size = _Sheet(), _lane_size(lane, given)
    left = max(size.left, _title_width(lane.title), *map(_end_width, ends)) + 2 * PAD
    y = _end(sheet, left, 2 * PAD + LINE + PAD, ends[0])
    sheet.text("title", 2 * PAD, 2 * PAD + PAD, lane.title)
    y = _stages(sheet, lane, left, y, given)
    y = _end(sheet, left, y, ends[1])
    right = max(size.right, *map(_end_width, ends), _title_width(lane.title) - left + 2 * PAD)
    width, height = left + right + 2 * PAD, y + 2 * PAD
    names = ", ".join(box.title for box in lane.boxes)
    about = f"The stages of a pipeline, in order: {names}."
    head = [
        f'<svg {_HEAD} viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'  <title id="title">{escape(lane.title)}</title>',
        f'  <desc id="desc">{escape(about)}</desc>\n  <style>\n{_STYLE}\n  </style>',
        _TIP,
        f'  <rect class="page" width="{width}" height="{height}" rx="8"/>',
    ]
    return "\n".join([*head, *(f"  {part}" for part in sheet.parts), "</svg>"]) + "\n"


def _title_width(text: str) -> int:
    return _wide(text, TITLE)


def _end_width(text: str) -> int:
    """Half the width of the box at an end."""
    return _wide(text) // 2 + PAD


def _end(sheet: _Sheet, x: int, y: int, text: str) -> int:
    half, height = _end_width(text), 28
    sheet.rect("end", x - half, y, 2 * half, height, height // 2)
    sheet.text("text", x - _wide(text) // 2, y + 18, text)
    return y + height


def _label(columns: Sequence[str]) -> list[str]:
    return wrapped(", ".join(columns), LABEL) if columns else []


def _arrow_height(columns: Sequence[str]) -> int:
    return ARROW + LINE * len(_label(columns))


def _lane_size(lane: Lane, given: Sequence[str]) -> _Size:
    """The size of stages under one another, with the arrows before, between and after them."""
    boxes = [_box_size(box) for box in lane.boxes]
    arrows = [given, *(box.writes for box in lane.boxes)]
    labels = [_wide(line) + 2 * PAD for columns in arrows for line in _label(columns)]
    height = sum(box.height for box in boxes) + sum(map(_arrow_height, arrows))
    widest = max(box.right for box in boxes)
    return _Size(widest, max([widest, *labels]), height)


def _box_size(box: Box) -> _Size:
    texts = [_title_width(box.title), *map(_wide, box.settings)]
    width, height = max(texts) + 2 * PAD, _head(box)
    if box.lanes:
        sizes = [_frame_size(lane) for lane in box.lanes]
        width = max(width, sum(size.left + size.right + PAD for size in sizes) + PAD)
        height += max(size.height for size in sizes) + PAD
    half = width // 2 + 1
    return _Size(half, half, height)


def _frame_size(lane: Lane) -> _Size:
    """The size of a lane inside a group, with its frame and title."""
    size = _lane_size(lane, ())
    left = size.left + PAD
    right = max(size.right + PAD, _wide(lane.title) + 2 * PAD - left)
    return _Size(left, right, size.height + LINE + PAD // 2)


def _head(box: Box) -> int:
    return 2 * PAD + LINE * (1 + len(box.settings)) - 5


def _stages(
    sheet: _Sheet, lane: Lane, x: int, y: int, given: Sequence[str] = (), floor: int = 0
) -> int:
    """Draw stages from (x, y) down, each after its arrow, and the arrow that leaves; its end."""
    columns = given
    for box in lane.boxes:
        y = sheet.arrow(x, y, columns)
        y = _box(sheet, box, x, y)
        columns = box.writes
    return sheet.arrow(x, y, columns, floor)


def _box(sheet: _Sheet, box: Box, x: int, y: int) -> int:
    size = _box_size(box)
    left = x - size.left
    width = size.left + size.right
    sheet.rect("group" if box.lanes else "stage", left, y, width, size.height)
    sheet.text("title", left + PAD, y + PAD + 11, box.title)
    for number, line in enumerate(box.settings, 1):
        sheet.text("text", left + PAD, y + PAD + 11 + LINE * number, line)
    _lanes(sheet, box, left, y + _head(box), size.height - _head(box) - PAD)
    return y + size.height


def _lanes(sheet: _Sheet, box: Box, left: int, y: int, height: int) -> None:
    """Draw the lanes of a group side by side, all of one height."""
    at = left + PAD
    for lane in box.lanes:
        size = _frame_size(lane)
        sheet.rect("lane", at, y, size.left + size.right, height)
        sheet.text("columns", at + PAD, y + LINE, lane.title)
        _stages(sheet, lane, at + size.left, y + LINE + PAD // 2, floor=y + height)
        at += size.left + size.right + PAD
