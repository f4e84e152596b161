"""Reflection: how often a chain verifies, backtracks, sets subgoals or works backward.

A `Lexicon` maps kinds to phrases. Matches are found in the text, longest phrase first, without
overlap, and mapped to tokens. Counts are per 1k tokens WITHOUT the chain's loop (a "Wait," loop is
not reflection), and forced tokens (an inserted "wait") count neither as reflection nor as length.

A phrase that begins with "^" matches only at the start of a sentence or line ("wait" opens a doubt
there, and is an ordinary verb elsewhere). Matching ignores case; a space in a phrase matches any
white space or hyphen.

Kinds follow Gandhi et al. (arXiv 2503.01307): verification, backtracking, subgoal, backward
chaining. A bare "wait" or "hmm" counts as verification: it stops to check, and does not say that
anything is given up. Caveat: a lexicon counts words, not thoughts; compare variants, not models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from interp.diagnosis.loops import Loop
from interp.diagnosis.token_text import TokenizedText, words
from interp.errors import UserError, look_up
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table

_OPENING = r"(?:(?<=[.!?:;\n])|(?<=[.!?:;\n][\s\"'(*])|(?<=[.!?:;\n][\s\"'(*]{2})|\A)[\s\"'(*]*"


SENTENCE = r"\A[\s\"'(*]*|[.!?:;\n][\s\"'(*]*"  # text before a sentence or line


@dataclass(frozen=True)
class Lexicon:
    """Phrases for each kind of reflection.

    Attributes:
        name: Name of the lexicon.
        kinds: Phrases of each kind; no phrase may appear twice.
        openers: Single words that open a reflection where one may begin.
        boundary: Regular expression of the text before a place where a reflection may begin.
        prose: Whether the lexicon is for natural text, whose sentences can be compared.
    """

    name: str
    kinds: Mapping[str, tuple[str, ...]]
    openers: tuple[str, ...] = ()
    boundary: str = SENTENCE
    prose: bool = True

    def __post_init__(self) -> None:
        phrases = [p for kind in self.kinds.values() for p in kind]
        if not phrases or not all(p.strip("^ ") for p in phrases):
            raise UserError(f"lexicon {self.name!r}: expected at least one phrase, and none empty.")
        if len({p.lower() for p in phrases}) < len(phrases):
            raise UserError(f"lexicon {self.name!r}: a phrase appears twice; expected each once.")

    @cached_property
    def boundaries(self) -> re.Pattern[str]:
        """The compiled pattern of the text before a place where a reflection may begin."""
        return re.compile(self.boundary)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """One compiled pattern with a group per phrase, longest phrases first."""
        entries = [(p, kind) for kind, listed in self.kinds.items() for p in listed]
        entries.sort(key=lambda entry: -len(entry[0].lstrip("^")))
        parts = []
        for phrase, kind in entries:
            opening = _OPENING if phrase.startswith("^") else ""
            body = r"[\s\-]+".join(re.escape(w) for w in re.split(r"[\s\-]+", phrase.lstrip("^")))
            group = f"k{list(self.kinds).index(kind)}_{len(parts)}"
            parts.append(rf"{opening}\b(?P<{group}>{body})\b")
        return re.compile("|".join(parts), re.IGNORECASE)

    def find(self, text: str) -> list[tuple[int, str]]:
        """Find all phrases in a text, in order.

        Args:
            text: The text.

        Returns:
            Character offset and kind of each match.
        """
        names = list(self.kinds)
        found = []
        for match in self.pattern.finditer(text):
            group = match.lastgroup or ""
            found.append((match.start(group), names[int(group[1:].split("_")[0])]))
        return found


NATURAL = Lexicon(
    "natural",
    {
        "verification": (
            "^wait", "but wait", "oh wait", "no wait", "^hmm", "^hold on", "let me check",
            "let's check", "let me verify", "let's verify", "let me double check", "double check",
            "double checking", "recheck", "rechecking", "check again", "verify again",
            "verify this", "verify that", "to verify", "to confirm", "let me confirm",
            "re examine", "reexamine", "sanity check", "make sure", "let me see if",
            "go over this again", "look at this again", "check my work", "is that right",
            "is this correct",
        ),
        "backtracking": (
            "^alternatively", "on second thought", "reconsider", "let me try another",
            "let me try a different", "let's try another", "let's try a different",
            "try a different approach", "try another approach", "another approach",
            "let me think again", "let me rethink", "rethink", "start over", "let me start again",
            "that's not right", "that isn't right", "that's wrong", "this is wrong",
            "that can't be right", "that doesn't work", "this doesn't work", "that won't work",
            "i made a mistake", "i made an error", "let me correct", "let me go back", "going back",
            "^actually", "scratch that",
        ),
        "subgoal": (
            "^first, i need", "first, i need to", "first, let me", "first, let's", "^next, i need",
            "next, i need to", "next, let's", "the next step", "step by step", "the first step",
            "break this down", "break it down", "break the problem", "split this into",
            "let's start by", "let me start by", "i'll start by", "my plan", "to do this, i need",
            "we need to find", "i need to find",
        ),
        "backward chaining": (
            "work backward", "work backwards", "working backward", "working backwards",
            "start from the answer", "start from the target", "starting from the target",
            "to get to the target", "to reach the target", "to end up with", "which would require",
            "for this to be true", "for that to happen",
        ),
    },
    openers=("wait", "hmm", "alternatively", "actually"),
)  # fmt: skip

#: A reflection may begin a line, or follow a full stop or a result ("= 12 ").
TESTBED = Lexicon(
    "testbed",
    {"verification": ("wait", "check"), "backtracking": ("back", "again")},
    openers=("wait", "check", "back", "again"),
    boundary=r"(?:\A|\.\s|= \d+\s)\s*",
    prose=False,
)

LEXICONS = {lexicon.name: lexicon for lexicon in (NATURAL, TESTBED)}


def lexicon_of(model: object, given: Lexicon | None = None) -> Lexicon:
    """The lexicon to read a model's chains with.

    Args:
        model: a model, or what decodes its tokens; its `lexicon_name` is the name of a lexicon that
            its tokenizer carries.
        given: what the caller asked for.

    Returns:
        What was given, else the model's own, else `NATURAL`.
    """
    return given or LEXICONS.get(getattr(model, "lexicon_name", ""), NATURAL)


@as_table
@dataclass(frozen=True)
class Reflection:
    """Reflections of one chain, without its loop and without forced tokens.

    Attributes:
        lexicon: Name of the lexicon.
        positions: Token index of each reflection, [R].
        kinds: Kind of each reflection.
        counts: Number of reflections of each kind.
        tokens: Number of tokens that were searched.
    """

    lexicon: str
    positions: Int[np.ndarray, " R"]
    kinds: tuple[str, ...]
    counts: Mapping[str, int]
    tokens: int

    @property
    def total(self) -> int:
        """Number of reflections of all kinds."""
        return len(self.kinds)

    def rate(self, kind: str | None = None) -> float:
        """Compute the reflections per 1k tokens.

        Args:
            kind: One of the lexicon's kinds; default: all of them.

        Returns:
            The rate; nan where no token was searched.

        Raises:
            UserError: The kind is unknown.
        """
        count = self.total if kind is None else look_up(kind, self.counts, "kind of reflection")
        return 1000 * count / self.tokens if self.tokens else float("nan")

    @property
    def per_1k(self) -> dict[str, float]:
        """Reflections per 1k tokens, by kind; nan where no token was searched."""
        return {kind: self.rate(kind) for kind in self.counts}

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per reflection."""
        return pd.DataFrame({"position": self.positions, "kind": list(self.kinds)})


@checked
def reflections(
    text: TokenizedText | str,
    lexicon: Lexicon | None = None,
    *,
    loop: Loop | None = None,
    forced: Bool[np.ndarray, " S"] | None = None,
) -> Reflection:
    """Find the reflections of a chain.

    Args:
        text: The text aligned with its tokens (`token_text.read`), or plain text, whose words then
            stand for tokens.
        lexicon: The words that reflect; default `NATURAL`.
        loop: The loop found in the same tokens, which is left out.
        forced: True for the tokens that the engine forced, [S], which are left out.

    Returns:
        The reflections, in order.

    Raises:
        UserError: `forced` does not have one value per token.
    """
    reading = words(text) if isinstance(text, str) else text
    lexicon = NATURAL if lexicon is None else lexicon
    looked = np.ones(len(reading), dtype=bool)
    if forced is not None:
        if forced.shape != looked.shape:
            raise UserError(
                f"reflections: forced has shape {forced.shape}, the text {len(reading)} tokens; "
                "expected one value per token."
            )
        looked &= ~forced
    if loop is not None:
        looked[loop.onset : loop.onset + loop.wasted] = False
    found = [(reading.token_at(char), kind) for char, kind in lexicon.find(reading.text)]
    found = [(token, kind) for token, kind in found if token < len(looked) and looked[token]]
    kinds = tuple(kind for _, kind in found)
    return Reflection(
        lexicon=lexicon.name,
        positions=np.array([token for token, _ in found], dtype=np.int64),
        kinds=kinds,
        counts={kind: kinds.count(kind) for kind in lexicon.kinds},
        tokens=int(looked.sum()),
    )
