"""Figures as the page holds them: inline SVG whose points link to the chains behind them.

`analyses.plumbing.style.link_points` marks a point with a variant, a benchmark and an outcome. What
is marked becomes a link where the page has such chains; elsewhere the mark is taken away.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from analyses.plumbing import style

Links = Mapping[tuple[str, str, str], str]

_MARK = re.compile(rf'<a xlink:href="{style.CHAINS}([^"]*)"[^>]*>(.*?)</a>', re.S)
_ID = re.compile(r'(\sid="|url\(#|xlink:href="#)')
_REST = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", re.S)
_HEAD = re.compile(r"<svg\b[^>]*?\sviewBox=\"([^\"]*)\"[^>]*>")


def _linked(svg: str, links: Links) -> str:
    """The figure with links for its marks; a mark without an anchor is taken away."""

    def link(found: re.Match[str]) -> str:
        variant, benchmark, outcome = style.link_parts(html.unescape(found[1]))
        other = links.get((variant, benchmark, "correct"))
        anchor = links.get((variant, benchmark, outcome), other)
        if anchor is None:
            return found[2]
        name = html.escape(f"chains of {style.pretty(variant)}, {benchmark}")
        return f'<a href="#{anchor}" aria-label="{name}"><title>{name}</title>{found[2]}</a>'

    return _MARK.sub(link, svg)


def inline_svg(svg: str, prefix: str, label: str, size: tuple[int, int], links: Links) -> str:
    """A figure of matplotlib as part of an HTML page.

    Args:
        svg: the file.
        prefix: what its ids begin with, as a page has several figures.
        label: what it shows, for a reader who does not see it.
        size: width and height in CSS pixels.
        links: anchor by (variant, benchmark, outcome).

    Returns:
        The element `svg`, without comments, metadata and styles of its own.
    """
    body = _REST.sub("", svg[svg.index("<svg") :])
    body = _ID.sub(rf"\g<1>{prefix}-", _linked(body, links))
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{{}}" width="{size[0]}" '
        f'height="{size[1]}" role="group" aria-label="{html.escape(label)}">'
    )
    return _HEAD.sub(lambda found: head.format(found[1]), body, count=1)
