"""The thinking format of a study, a fact in its store: what its budgets and answers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping

from interp.errors import UserError
from interp.json_reader import parse_json, short
from interp.model.delimiters import Delimiters

FORMAT = "thinking format"  # the key in the table `meta`


def format_fact(delimiters: Delimiters) -> dict[str, str]:
    """The fact to store.

    Args:
        delimiters: the thinking format of the study's model.

    Returns:
        Key and value for the table `meta`: the format's name and its texts, as JSON.
    """
    return {FORMAT: json.dumps({"name": delimiters.name, **delimiters.to_dict()}, sort_keys=True)}


def stored_format(meta: Mapping[str, str]) -> Delimiters | None:
    """The thinking format of a stored study.

    Args:
        meta: the facts of the store (`Store.meta`).

    Returns:
        The format; None for a study older than this fact.

    Raises:
        UserError: the fact is damaged.
    """
    if FORMAT not in meta:
        return None
    content = parse_json(meta[FORMAT], f"{FORMAT} of the study")
    if not isinstance(content, dict) or not isinstance(content.pop("name", None), str):
        raise UserError(f"{FORMAT} of the study: expected a name and texts, not {short(content)}.")
    return Delimiters.from_dict(content)
