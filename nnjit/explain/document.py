"""What an explanation consists of, whatever it is rendered to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nnjit.explain.formula import Formula, Names, Style

Text: TypeAlias = tuple[str | Formula, ...]
"""Words with formulas between them."""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the document's."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: Text


@dataclass(frozen=True)
class Display:
    """A formula on a line of its own, and what its indices run over."""

    formula: Formula
    ranges: str = ""


@dataclass(frozen=True)
class Matrix:
    """The numbers of an array, or of a part of it; a vector is one row."""

    label: Formula
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Formula]]


Block: TypeAlias = Heading | Paragraph | Display | Matrix | Table
Document: TypeAlias = list[Block]


def text(written: str, names: Names) -> Text:
    """Words in which formulas stand between dollar signs."""
    pieces = written.split("$")
    return tuple(Formula.parse(piece, names) if k % 2 else piece for k, piece in enumerate(pieces) if piece)


class Renderer(ABC):
    """Documents in one format."""

    style: Style

    @abstractmethod
    def block(self, block: Block) -> str:
        """One block."""

    @abstractmethod
    def words(self, words: str) -> str:
        """Plain words."""

    @abstractmethod
    def inline(self, formula: Formula) -> str:
        """A formula in a line of text."""

    def text(self, parts: Text) -> str:
        """Words with formulas."""
        return "".join(self.words(part) if isinstance(part, str) else self.inline(part) for part in parts)

    def cell(self, cell: str | Formula) -> str:
        """A cell of a table."""
        return self.text((cell,))

    def render(self, document: Document) -> str:
        """The whole document."""
        return "\n\n".join(self.block(block) for block in document) + "\n"
