"""A network's forward and backward pass written out for one sample: formulas, numbers, and what confirms them.

`explain` makes a document, a renderer of FORMATS writes it down. Layers, losses and optimizers say their formulas
themselves (`nnjit.equations`).
"""

from nnjit.explain.content import Checks, explain
from nnjit.explain.document import Renderer
from nnjit.explain.html import HtmlRenderer
from nnjit.explain.markdown import MarkdownRenderer
from nnjit.explain.subject import Subject, at_the_start, is_model, trained
from nnjit.explain.text import TextRenderer

FORMATS: dict[str, Renderer] = {"text": TextRenderer(), "markdown": MarkdownRenderer(), "html": HtmlRenderer()}

__all__ = ["FORMATS", "Checks", "Subject", "at_the_start", "explain", "is_model", "trained"]
