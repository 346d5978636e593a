"""Explanations as plain text, with Unicode for what formulas need."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import chain

from nnjit.explain.document import Block, Display, Heading, Matrix, Paragraph, Renderer, Table
from nnjit.explain.formula import Formula, Style

RAISED = str.maketrans("0123456789()-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾⁻⁺")

WIDTH = 100
"""Columns that sentences take."""


class TextStyle(Style):
    """Formulas on one line: indices in square brackets, powers as raised digits."""

    stacked = False

    def number(self, digits: str) -> str:
        return digits

    def symbol(self, name: str) -> str:
        return name

    def sign(self, sign: str) -> str:
        return {"neg": "-", "·": "·", ",": ", "}.get(sign, f" {sign} ")

    def row(self, parts: Sequence[str]) -> str:
        return "".join(parts)

    def brackets(self, inside: str, pair: str) -> str:
        return f"{pair[0]}{inside}{pair[1]}"

    def scripts(self, base: str, below: str, above: str) -> str:
        return f"{base}{above.translate(RAISED)}{f'[{below}]' if below else ''}"

    def fraction(self, top: str, bottom: str) -> str:
        return f"{top}/{bottom}"

    def big(self, name: str, limits: Sequence[tuple[str, str]]) -> str:
        ranges = ", ".join(f"{index}=0..{last}" for index, last in limits)
        return f"{'Σ' if name == 'sum' else name}({ranges}) "


class TextRenderer(Renderer):
    """Headings are underlined, numbers stand in columns."""

    style = TextStyle()

    def words(self, words: str) -> str:
        return words

    def inline(self, formula: Formula) -> str:
        return self.style.formula(formula)

    def block(self, block: Block) -> str:
        match block:
            case Heading(level, text):
                return text if level > 3 else f"{text}\n{' =-~'[level] * len(text)}"
            case Paragraph(text):
                return textwrap.fill(self.text(text), WIDTH)
            case Display(formula, ranges):
                lines = _lines(self.style.pieces(formula)) + ([f"for {ranges}"] if ranges else [])
                return "\n".join(f"{'    ' if k == 0 else '        '}{line.rstrip()}" for k, line in enumerate(lines))
            case Matrix(label, rows):
                name = f"    {self.inline(label)} = "
                lines = _columns(rows)
                return "\n".join(f"{name if k == 0 else ' ' * len(name)}[ {line} ]" for k, line in enumerate(lines))
            case Table(header, rows):
                cells = [[self.cell(cell) for cell in row] for row in [header, *rows]]
                return "\n".join(f"    {line}".rstrip() for line in _columns(cells, first_is_text=True))


def _lines(pieces: Sequence[str]) -> list[str]:
    """Pieces of a formula put together to lines."""
    lines = [""]
    for piece in chain.from_iterable(map(_parts, pieces)):
        if lines[-1] and len(lines[-1] + piece) > WIDTH - 4:
            lines.append("")
        lines[-1] = (lines[-1] + piece).lstrip()
    return lines


def _parts(piece: str) -> list[str]:
    """A piece that is longer than a line parted between the numbers of a list, as a maximum of many has."""
    return re.split(r"(?<=\d, )(?=[-\d…])", piece) if len(piece) > WIDTH - 4 else [piece]


def _columns(rows: Sequence[Sequence[str]], first_is_text: bool = False) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k == 0 and first_is_text else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
