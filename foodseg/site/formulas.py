"""A Sphinx extension: formulas as MathML, which browsers draw themselves, without a script."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

NAME = "mathml"
SIZES = re.compile(r"\\big(?![a-zA-Z])")  # docutils doesn't know these larger brackets


def mathml(node: nodes.math | nodes.math_block, block: bool) -> str:
    """The MathML of a formula; empty, with a warning, for a command that docutils doesn't know."""
    try:
        return tex2mathml(SIZES.sub("", node.astext()), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return ""


def _inline(writer, node: nodes.math) -> None:
    writer.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def _block(writer, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer(
        NAME, inline_renderers=(_inline, None), block_renderers=(_block, None)
    )
    return {"parallel_read_safe": True}
