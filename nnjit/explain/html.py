"""Explanations as one HTML file with its formulas in MathML, which browsers typeset themselves: nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nnjit.explain.document import Block, Display, Document, Heading, Matrix, Paragraph, Renderer, Table
from nnjit.explain.formula import Formula, Style

SIGNS = {"·": "⋅", "-": "−", "neg": "−"}

CSS = """\
:root { color-scheme: light dark; --line: #d5d9e0; --soft: #f5f6f8; --quiet: #667; --accent: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f48; --soft: #22262c; --quiet: #99a; --accent: #7fb2ee; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; color: var(--accent); }
h4 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", math; font-size: 1.08em; }
.display { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 2rem; line-height: 2;
  margin: .7rem 0; padding: .5rem 1rem; background: var(--soft); border-left: 3px solid var(--accent); }
.display > div { min-width: 0; max-width: 100%; overflow: auto hidden; }
.display small { color: var(--quiet); }
.matrix { overflow: auto hidden; margin: .7rem 0; padding: .1rem 1.2rem; }
.matrix mtable { border: solid currentColor; border-width: 0 1.5px; border-radius: .7em; padding: .1em .2em; }
.matrix mtd { padding: .32em .5em; }
.matrix mtd > * { width: fit-content; margin-left: auto; }
.table { overflow: auto hidden; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
nav { columns: 16rem; margin: 1.5rem 0; padding: .8rem 1.2rem; background: var(--soft); }
nav a { display: block; color: inherit; text-decoration: none; }
nav a:hover { color: var(--accent); }
nav .level3 { padding-left: 1.2rem; color: var(--quiet); }
"""

VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
"""Without it a phone lays the page out as wide as a desk's screen and shrinks it."""


def _tag(name: str, *inside: str) -> str:
    return f"<{name}>{''.join(inside)}</{name}>"


def _math(inside: str) -> str:
    return f'<math displaystyle="true">{inside}</math>'


class MathmlStyle(Style):
    """MathML Core."""

    stacked = True

    def number(self, digits: str) -> str:
        mantissa, _, power = digits.partition("e")
        if not power:
            return _tag("mn", digits)
        exponent = [_tag("mo", "−"), _tag("mn", str(-int(power)))] if int(power) < 0 else [_tag("mn", str(int(power)))]
        ten = _tag("msup", _tag("mn", "10"), _tag("mrow", *exponent))
        return _tag("mrow", _tag("mn", mantissa), _tag("mo", "⋅"), ten)

    def symbol(self, name: str) -> str:
        if " " in name:
            return _tag("mtext", name)
        if name.endswith("′"):
            return _tag("msup", _tag("mi", name[:-1]), _tag("mo", "′"))
        return f'<mi mathvariant="normal">{name}</mi>' if name == "∂" else _tag("mi", "ln" if name == "log" else name)

    def sign(self, sign: str) -> str:
        if sign == ",":
            return '<mo separator="true">,</mo>'
        if sign == "neg":
            return '<mo form="prefix">−</mo>'
        space = ' lspace="0.3em" rspace="0.3em"' if sign == "mod" else ""
        return f'<mo form="infix"{space}>{escape(SIGNS.get(sign, sign))}</mo>'

    def row(self, parts: Sequence[str]) -> str:
        return parts[0] if len(parts) == 1 else _tag("mrow", *parts)

    def brackets(self, inside: str, pair: str) -> str:
        left, right = (f'<mo form="{form}">{sign}</mo>' for form, sign in zip(("prefix", "postfix"), pair, strict=True))
        return _tag("mrow", left, inside, right)

    def scripts(self, base: str, below: str, above: str) -> str:
        if below and above:
            return _tag("msubsup", base, below, above)
        return _tag("msub", base, below) if below else _tag("msup", base, above)

    def fraction(self, top: str, bottom: str) -> str:
        return _tag("mfrac", top, bottom)

    def big(self, name: str, limits: Sequence[tuple[str, str]]) -> str:
        if name == "sum":
            return self.row(
                [
                    _tag("munderover", _tag("mo", "∑"), _tag("mrow", index, _tag("mo", "="), _tag("mn", "0")), last)
                    for index, last in limits
                ]
            )
        ranges = [
            piece
            for index, last in limits
            for piece in (self.sign(","), index, _tag("mo", "="), _tag("mn", "0"), _tag("mo", "…"), last)
        ]
        return _tag("munder", f'<mo movablelimits="false" rspace="0.3em">{name}</mo>', _tag("mrow", *ranges[1:]))


class HtmlRenderer(Renderer):
    """A page with a list of its sections; well-formed as XML too."""

    style = MathmlStyle()

    def words(self, words: str) -> str:
        return escape(words)

    def inline(self, formula: Formula) -> str:
        return _math(self.style.formula(formula))

    def render(self, document: Document) -> str:
        """The whole page."""
        title = next(block.text for block in document if isinstance(block, Heading))
        body: list[str] = []
        links: list[str] = []
        for block in document:
            written = self.block(block)
            if isinstance(block, Heading) and block.level in (2, 3):
                anchor = f"s{len(links)}"
                links.append(f'<a class="level{block.level}" href="#{anchor}">{self.words(block.text)}</a>')
                written = written.replace(">", f' id="{anchor}">', 1)
            body.append(written)
        head = f'<meta charset="utf-8"/>{VIEWPORT}<title>{self.words(title)}</title><style>\n{CSS}</style>'
        body.insert(1, f'<nav aria-label="Sections">{"".join(links)}</nav>')
        page = "\n".join([f"<head>{head}</head>", "<body><main>", *body, "</main></body>"])
        return f'<!DOCTYPE html>\n<html lang="en">\n{page}\n</html>\n'

    def block(self, block: Block) -> str:
        match block:
            case Heading(level, text):
                return _tag(f"h{level}", self.words(text))
            case Paragraph(text):
                return _tag("p", self.text(text))
            case Display(formula, ranges):
                note = _tag("small", self.words(ranges)) if ranges else ""
                # Lines break between one math element and the next, never inside.
                pieces = "<wbr/>".join(map(_math, self.style.pieces(formula)))
                return f'<div class="display"><div>{pieces}</div>{note}</div>'
            case Matrix(label, rows):
                cells = [_tag("mtr", *(_tag("mtd", self._number(cell)) for cell in row)) for row in rows]
                equals = [self.style.formula(label), self.style.sign("="), _tag("mtable", *cells)]
                return f'<div class="matrix">{_math(self.style.row(equals))}</div>'
            case Table(header, rows):
                lines = [_tag("tr", *(f'<th scope="col">{self.words(cell)}</th>' for cell in header))]
                lines += [_tag("tr", *(_tag("td", self.cell(cell)) for cell in row)) for row in rows]
                return f'<div class="table">{_tag("table", *lines)}</div>'

    def _number(self, written: str) -> str:
        number = self.style.number(written.removeprefix("-"))
        return self.style.row([self.style.sign("neg"), number] if written.startswith("-") else [number])
