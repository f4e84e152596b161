"""A chain in a notebook: its text with thinking, loops, reflections and forced tokens marked.

Colours are translucent and styles inline, so that the text can be read on light and dark pages and
in viewers that drop style sheets.
"""

from __future__ import annotations

from itertools import groupby

from interp.chains.chain import SHOWN, Chain
from interp.diagnosis.chain_marks import TextMark, chain_marks, units
from interp.diagnosis.reflection_lexicon import lexicon_of
from interp.diagnosis.token_text import Pieces, read
from interp.plumbing.notebook import escaped

#: Mark -> style. Later ones win where marks overlap.
STYLES = {
    "left loop": "background:rgba(230,159,0,.15)",
    "loop": "background:rgba(230,159,0,.28)",
    "loop, even pass": "background:rgba(230,159,0,.5)",
    "reflection": "background:rgba(86,180,233,.45);border-bottom:2px solid #0072b2",
    "closing": "color:#8a8a8a",
    "forced": "text-decoration:underline dotted;color:#8a8a8a",
}
BOX = (
    "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;max-height:32em;"
    "overflow-y:auto;font-family:ui-monospace,monospace;line-height:1.5;margin:.3em 0"
)
THINKING, ANSWER = "opacity:.85", "font-weight:600"


def chain_html(chain: Chain) -> str:
    """A chain as HTML, with everything marked that needs no gold answer.

    Args:
        chain: A finished chain; one that does not know its model shows its token ids.

    Returns:
        HTML with all text escaped. Of a long chain the middle is left out.
    """
    head = f"<div>{escaped(chain.name)}"
    if (model := chain.decoder) is None:
        ids = ", ".join(map(str, chain.ids.tolist()))
        return f'{head}<div style="{BOX}">{escaped(ids, SHOWN)}</div></div>'
    pieces = Pieces(model)
    marks = chain_marks(chain, pieces, lexicon_of(model))
    texts, firsts = units(read(pieces, chain.ids), chain.ids.tolist(), pieces)
    styles = _styles(chain, marks)
    cut = _cut(texts)
    shown = []
    at = 0
    for (style, label, _), run in groupby(
        zip(texts, firsts, strict=True), key=lambda unit: styles[unit[1]]
    ):
        text = ""
        for piece, _ in run:
            if at == cut.start and len(cut):
                text += f"\n\N{HORIZONTAL ELLIPSIS} {len(cut)} tokens \N{HORIZONTAL ELLIPSIS}\n"
            text += piece if at not in cut else ""
            at += 1
        title = f' title="{escaped(label)}"' if label else ""
        if text:
            shown.append(f'<span style="{style}"{title}>{escaped(text)}</span>')
    names = dict.fromkeys(m.kind for m in marks if m.kind in STYLES)
    key = " ".join(f'<span style="{STYLES[kind]}">{kind}</span>' for kind in names)
    legend = f'<div style="font-size:.85em">{key}</div>' if key else ""
    return f'{head}<div style="{BOX}">{"".join(shown)}</div>{legend}</div>'


def _cut(texts: list[str]) -> range:
    """The units in the middle that are left out, so that at most `SHOWN` characters are shown."""
    if sum(map(len, texts)) <= SHOWN:
        return range(0)
    edges = []
    for side, share in ((texts, 2), (texts[::-1], 1)):
        size = n = 0
        while n < len(side) and size + len(side[n]) <= SHOWN * share // 3:
            size += len(side[n])
            n += 1
        edges.append(n)
    return range(edges[0], max(edges[0], len(texts) - edges[1]))


def _styles(chain: Chain, marks: list[TextMark]) -> list[tuple[str, str, int]]:
    """For each token its style, its label, and the number of its mark (a pass of a loop each)."""
    found = [("", "", -1)] * chain.n_tokens
    for span, style in ((chain.thinking, THINKING), (chain.answer, ANSWER)):
        if span is not None:
            found[span.start : span.stop] = [(style, "", -1)] * len(span)
    order = list(STYLES)
    passes = 0
    ranked = sorted(enumerate(marks), key=lambda pair: order.index(pair[1].kind))
    for number, mark in ranked:
        style = STYLES[mark.kind]
        if mark.kind == "loop":
            passes += 1
            style = STYLES["loop, even pass"] if passes % 2 == 0 else style
        for token in range(mark.start, min(mark.stop, chain.n_tokens)):
            under = found[token][0]
            found[token] = (f"{under};{style}" if under else style, mark.label, number)
    return found


Chain.drawer = chain_html
