"""Explanations as Markdown with LaTeX between dollar signs, as GitHub, Jupyter and most editors show it."""

from __future__ import annotations

from collections.abc import Sequence

from nnjit.explain.document import Block, Display, Heading, Matrix, Paragraph, Renderer, Table
from nnjit.explain.formula import OVER, Formula, Style

LATEX = {"·": r"\cdot ", "≥": r"\ge ", "≤": r"\le ", "mod": r"\bmod ", "neg": "-", ",": r",\,"}
LETTERS = {"δ": r"\delta ", "∂": r"\partial ", "log": r"\ln ", "exp": r"\exp ", "max": r"\max ", "min": r"\min "}
PAIRS = {"()": ("(", ")"), "[]": ("[", "]"), "⌊⌋": (r"\lfloor ", r"\rfloor ")}
PIECES = 6
"""Sides and terms on a line."""


class LatexStyle(Style):
    """LaTeX's mathematics, of which every dialect has the commands used here."""

    stacked = True

    def number(self, digits: str) -> str:
        mantissa, _, power = digits.partition("e")
        return rf"{mantissa} \cdot 10^{{{int(power)}}}" if power else digits

    def symbol(self, name: str) -> str:
        if name in LETTERS:
            return LETTERS[name]
        letter = name.replace("′", "'").replace("…", r"\ldots ")
        if len(name.rstrip("′")) == 1:
            return letter
        return rf"\text{{{letter}}}" if " " in name else rf"\mathrm{{{letter}}}"

    def sign(self, sign: str) -> str:
        return LATEX.get(sign, f" {sign} ")

    def row(self, parts: Sequence[str]) -> str:
        return "".join(parts)

    def brackets(self, inside: str, pair: str) -> str:
        left, right = PAIRS[pair]
        return rf"\left{left}{inside}\right{right}" if r"\frac" in inside else f"{left}{inside}{right}"

    def scripts(self, base: str, below: str, above: str) -> str:
        return f"{{{base}}}" + (f"_{{{below}}}" if below else "") + (f"^{{{above}}}" if above else "")

    def fraction(self, top: str, bottom: str) -> str:
        return rf"\frac{{{top}}}{{{bottom}}}"

    def big(self, name: str, limits: Sequence[tuple[str, str]]) -> str:
        assert name in OVER
        if name == "sum":
            return "".join(rf"\sum_{{{index}=0}}^{{{last}}} " for index, last in limits)
        ranges = r",\,".join(rf"{index}=0 \ldots {last}" for index, last in limits)
        return rf"\underset{{{ranges}}}{{\mathrm{{{name}}}}}\, "


class MarkdownRenderer(Renderer):
    """Tables with pipes; every display between double dollar signs."""

    style = LatexStyle()

    def words(self, words: str) -> str:
        return words.replace("*", r"\*").replace("_", r"\_").replace("|", r"\|").replace("<", r"\<")

    def inline(self, formula: Formula) -> str:
        return f"${self.style.formula(formula).strip()}$"

    def block(self, block: Block) -> str:
        match block:
            case Heading(level, text):
                return f"{'#' * level} {self.words(text)}"
            case Paragraph(text):
                return self.text(text)
            case Display(formula, ranges):
                pieces = self.style.pieces(formula)
                lines = ["".join(pieces[k : k + PIECES]) for k in range(0, len(pieces), PIECES)]
                latex = r" \\ & ".join(lines)
                if len(lines) > 1:
                    latex = rf"\begin{{aligned}} & {latex} \end{{aligned}}"
                return _display(latex + (rf" \qquad \text{{{ranges}}}" if ranges else ""))
            case Matrix(label, rows):
                inside = r" \\ ".join(" & ".join(map(self._number, row)) for row in rows)
                return _display(rf"{self.style.formula(label)} = \begin{{pmatrix}} {inside} \end{{pmatrix}}")
            case Table(header, rows):
                rule = "|".join(["---"] + ["---:"] * (len(header) - 1))
                lines = ["|".join(map(self.cell, row)) for row in rows]
                return "\n".join(f"|{line}|" for line in ["|".join(map(self.words, header)), rule, *lines])

    def _number(self, written: str) -> str:
        minus = "-" if written.startswith("-") else ""
        return minus + self.style.number(written.removeprefix("-"))


def _display(latex: str) -> str:
    return f"$$\n{latex}\n$$"
