"""The files of the page, and how they are put together for the server and for one file."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

SCRIPTS = ("data.js", "list.js", "chain.js", "page.js")
STYLE, PAGE = "viewer.css", "viewer.html"
_HEAD, _END = "<!--head-->", "<!--scripts-->"


def asset(name: str) -> str:
    """The text of one file of the page."""
    return (resources.files("analyses.viewer") / "assets" / name).read_text(encoding="utf-8")


def script() -> str:
    """The page's scripts as one."""
    return "\n".join(asset(name) for name in SCRIPTS)


def served_page() -> str:
    """The page that loads its style, script and data from the server."""
    page = asset(PAGE).replace(_HEAD, '<link rel="stylesheet" href="viewer.css">')
    return page.replace(_END, '<script src="viewer.js"></script>')


def filled_page(data: dict[str, Any]) -> str:
    """The page with everything in it; it can ask for nothing.

    Args:
        data: JSON values, what the server would have answered.

    Returns:
        HTML, ASCII where the data is concerned.
    """
    style, code = asset(STYLE), script()
    policy = (
        f"default-src 'none'; script-src '{_digest(code)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="referrer" content="no-referrer"><style>{style}</style>'
    )
    # replaced in turn, the data last: a text of the study may hold the marks
    page = asset(PAGE).replace(_HEAD, head)
    before, after = page.split(_END)
    island = f'<script type="application/json" id="data">{inert_json(data)}</script>'
    return f"{before}{island}<script>{code}</script>{after}"


def inert_json(data: Any) -> str:
    """JSON in ASCII that cannot end a script element or open a comment in it."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
