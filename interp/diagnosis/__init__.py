"""Diagnosis of chains: loops, reflection and repetition within one, diversity between several.

| file | contents |
|---|---|
| `loops`, `episodes` | the loop in which a chain ends; every loop it entered |
| `hazard`, `escape` | rates of entering and leaving loops; the probability of leaving |
| `restatement` | sentences that repeat an earlier one, in the same or in other words |
| `recurrence`, `cusum` | how much a chain resembles its past; alarms before an event |
| `diversity_measures` | how different a problem's samples are |
| `diversity_comparison` | variants compared, with accuracy |
| `equations`, `equation_reading` | arithmetic in words, checked; how it is read |
| `reflection_lexicon`, `openers` | reflections in the text; the probability of opening one |
| `benefit` | the verdict before and after a reflection |

`diagnose` makes one flat row per chain, for tables. `escape`, `openers` and `benefit` need a model:
they read finished chains again.
"""

from __future__ import annotations

from interp.chains.chain import Chain, TextDecoder
from interp.diagnosis.benefit import Attempt, Benefit, reflection_benefit
from interp.diagnosis.diversity_comparison import Beside, diversity_beside
from interp.diagnosis.diversity_measures import Diversity, branching, diversity, repetition
from interp.diagnosis.episodes import Episode, find_episodes
from interp.diagnosis.equations import Equation, Equations, equations, read_equations
from interp.diagnosis.escape import EscapeMass, escape_mass
from interp.diagnosis.hazard import LoopDynamics, episodes_of, loop_dynamics
from interp.diagnosis.loops import Loop, find_loop, text_loop
from interp.diagnosis.openers import OpenerMass, compare_openers, opener_mass
from interp.diagnosis.reflection_lexicon import (
    NATURAL,
    TESTBED,
    Lexicon,
    Reflection,
    lexicon_of,
    reflections,
)
from interp.diagnosis.restatement import Restatement, restatement, stream_embedder
from interp.diagnosis.token_text import NUMBER, Pieces, TokenizedText, read, words
from interp.plumbing.arguments import checked

WINDOW = 128  # tokens over which repetition is measured


@checked
def diagnose(
    chain: Chain, model: TextDecoder, lexicon: Lexicon | None = None
) -> dict[str, str | int | float | None]:
    """Diagnose one chain: its loop, reflections and repetition, as one flat row.

    The loop is searched at the end of the thinking, then at the end of the answer, then at the end
    of thinking that the answer opened again. Reflections,
    episodes, repetition and restatement are those of the thinking (of the answer, for a chain
    without thinking).

    Args:
        chain: A finished chain.
        model: Decodes token ids: any object with `text(ids, skip_special)`. For many chains pass
            one `Pieces(model)`, so that each token is decoded once.
        lexicon: The words that reflect; default: the model's own.

    Returns:
        The row. `reopened` says whether the answer opened the thinking again (1 or 0).
        `loop` (kind), `loop_in` ("thinking", "answer" or "reopened"), `loop_period`, `loop_onset`
        (tokens from the first generated token) and `loop_repeats` are None without a loop; `looped`
        and `loop_wasted` are 0. `repetition` is the share of repeated 4-grams in windows of 128
        tokens; nan for a shorter chain. `loop_entries`, `loop_escapes` and `loop_tokens` count the
        episodes, those that were left, and their tokens (`episodes`). `restated` is the share of
        sentences that restate an earlier one word for word; nan for a lexicon that is not for
        prose. `equations`, `equation_slips`, `equation_noticed` and `equation_mended` count the
        equations before the loop, those that do not hold, and those of them that a reflection
        follows or a right one; None for a lexicon that is not for prose.
        `reflections`, `reflection_per_1k` and both for each kind leave out the loop and
        forced tokens; per-1k fields are nan where no token remains.
    """
    pieces = model if isinstance(model, Pieces) else Pieces(model)
    spans = [("thinking", chain.thinking), ("answer", chain.answer), ("reopened", chain.reopened)]
    readings = {
        name: (span, read(pieces, chain.ids[span.start : span.stop]))
        for name, span in spans
        if span is not None and len(span)
    }
    loop, loop_in, onset = None, None, None
    for name, (span, reading) in readings.items():
        loop = find_loop(chain.ids[span.start : span.stop], reading.mask(NUMBER))
        if loop is not None:
            loop_in, onset = name, span.start + loop.onset
            break
    row: dict[str, str | int | float | None] = {
        "reopened": int(chain.reopened is not None),
        "loop": loop.kind if loop else None,
        "looped": int(loop is not None),
        "loop_in": loop_in,
        "loop_period": loop.period if loop else None,
        "loop_onset": onset,
        "loop_repeats": loop.repeats if loop else None,
        "loop_wasted": loop.wasted if loop else 0,
    }
    lexicon = lexicon_of(model, lexicon)
    main = "thinking" if "thinking" in readings else "answer"
    if main in readings:
        span, reading = readings[main]
        ids, forced = chain.ids[span.start : span.stop], chain.forced[span.start : span.stop]
        own_loop = loop if loop_in == main else None
        found = reflections(reading, lexicon, loop=own_loop, forced=forced)
        row["repetition"] = repetition(ids, window=WINDOW)
        own = chain.thinking_finish == "end" if main == "thinking" else chain.finish == "stop"
        episodes = find_episodes(ids, reading.mask(NUMBER), ended=own)
        restated = restatement(reading.text).share if lexicon.prose else float("nan")
        checked_equations = equations_before(own_loop, reading, found)
    else:
        found, episodes, restated = reflections("", lexicon), (), float("nan")
        checked_equations = read_equations("")
        row["repetition"] = float("nan")
    row["loop_entries"] = len(episodes)
    row["loop_escapes"] = sum(one.escaped for one in episodes)
    row["loop_tokens"] = sum(map(len, episodes))
    row["restated"] = restated
    slips = checked_equations.slips
    row["equations"] = len(checked_equations) if lexicon.prose else None
    row["equation_slips"] = len(slips) if lexicon.prose else None
    row["equation_noticed"] = sum(e.noticed for e in slips) if lexicon.prose else None
    row["equation_mended"] = sum(e.mended for e in slips) if lexicon.prose else None
    row["reflections"] = found.total
    row["reflection_per_1k"] = found.rate()
    for kind in lexicon.kinds:
        name = kind.replace(" ", "_")
        row[f"{name}"] = found.counts[kind]
        row[f"{name}_per_1k"] = found.rate(kind)
    return row


def equations_before(loop: Loop | None, reading: TokenizedText, found: Reflection) -> Equations:
    """The equations of a text before its loop, which would repeat one slip a hundred times.

    Args:
        loop: the loop in which the text ends.
        reading: the text.
        found: its reflections.

    Returns:
        The equations.
    """
    starts = reading.starts
    stop = len(reading.text) if loop is None else int(starts[loop.onset])
    places = [int(starts[at]) for at in found.positions.tolist()]
    return read_equations(reading.text[:stop], places)
