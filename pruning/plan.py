"""A plan: which blocks a variant lacks, which criterion chose them, and with what scores.

Every block is named by its DENSE index, also when the plan's model has lost blocks already:
`base` holds the dense indices of the blocks of the plan's model (its `layer_map`), and `n_blocks`
their number. `kept` is `base` without `removed`, and the `layer_map` of the pruned model. A plan
is itself a variant (`name`, `interventions()`), so it can be decoded live; `pruning.surgery` makes
the checkpoint that gives the same logits. `LayerPlan.published` loads plans of published papers.

A plan checks itself on construction: an index that does not exist, a block named twice, or no
block left is a `UserError` before any weight is touched. `check(model)` refuses a model of another
depth, other blocks or other weights than the plan was made for.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError, printable
from interp.json_reader import parse_json, read_utf8, short
from interp.model.checkpoint_files import MOST_BLOCKS
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import escaped

if TYPE_CHECKING:
    import pandas as pd

    from interp.interventions.interventions import Intervention
    from interp.model.reasoning_model import ReasoningModel
    from pruning.scores import Scores

FORMAT = 1


@checked
@dataclass(frozen=True, repr=False)
class LayerPlan:
    """Blocks to remove from a model of `n_blocks` blocks.

    `criterion`, `scores`, `calibration` and `model` are empty if a person named the blocks.

    Attributes:
        removed: dense indices of the blocks to remove, kept sorted.
        n_blocks: the number of blocks of the plan's model.
        name: the plan's name. Default: made from the criterion or the blocks.
        criterion: the criterion that chose the blocks.
        scores: one score per block of `base`.
        calibration: hash of the calibration text.
        model: fingerprint of the model that was scored.
        base: dense indices of the blocks of the plan's model. Default: `range(n_blocks)`.
        source: where the plan was published, if it was.
    """

    removed: tuple[int, ...]
    n_blocks: int
    name: str = ""
    criterion: str = ""
    scores: tuple[float, ...] | None = None
    calibration: str = ""
    model: str = ""
    base: tuple[int, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.n_blocks <= MOST_BLOCKS:
            raise UserError(
                f"LayerPlan(n_blocks={short(self.n_blocks)}): a model has at least one block, and "
                f"none has more than {MOST_BLOCKS}."
            )
        base = tuple(int(l) for l in self.base) or tuple(range(self.n_blocks))
        removed = tuple(sorted(int(l) for l in self.removed))
        rising = all(a < b for a, b in pairwise((-1, *base, MOST_BLOCKS)))
        if len(base) != self.n_blocks or not rising:
            raise UserError(
                f"LayerPlan: `base` names {len(base)} blocks {short(list(base))}, expected "
                f"{self.n_blocks} different dense indices from 0 to {MOST_BLOCKS - 1}, in rising "
                "order."
            )
        twice = sorted(l for l, times in Counter(removed).items() if times > 1)
        if twice:
            raise UserError(
                f"LayerPlan: block {_list(twice)} is named twice; name each block once."
            )
        absent = sorted(set(removed) - set(base))
        if absent:
            raise UserError(
                f"LayerPlan: block {_list(absent)} is not there; the model has the blocks "
                f"{_span(base)} (dense indices, from 0)."
            )
        if len(removed) == len(base):
            raise UserError(
                f"LayerPlan: removing all {len(base)} blocks leaves no model; keep at least one."
            )
        if self.scores is not None and len(self.scores) != self.n_blocks:
            raise UserError(
                f"LayerPlan: {len(self.scores)} scores for {self.n_blocks} blocks; "
                "expected one score per block of the plan's model."
            )
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "removed", removed)
        if not self.name:
            object.__setattr__(self, "name", self._default_name())

    def _default_name(self) -> str:
        if self.criterion:
            return f"{self.criterion}-{len(self.removed)}"
        return "without " + ",".join(map(str, self.removed)) if self.removed else "nothing removed"

    def __repr__(self) -> str:
        gone = ", ".join(map(str, self.removed[:64])) + (", ..." if len(self.removed) > 64 else "")
        by = f", criterion={self.criterion!r}" if self.criterion else ""
        return f"LayerPlan({printable(self.name, 80)!r}, removed=({gone}) of {self.n_blocks}{by})"

    def _repr_html_(self) -> str:
        gone = "background:rgba(213,94,0,.35);text-decoration:line-through"
        kept = "background:rgba(0,158,115,.2)"
        cells = "".join(
            f'<span style="padding:0 .35em;margin:1px;display:inline-block;'
            f'{gone if block in self.removed else kept}">{block}</span>'
            for block in self.base[:512]
        )
        return f"<div><p><code>{escaped(self, 400)}</code></p>{cells}</div>"

    def to_frame(self) -> pd.DataFrame:
        """One row per block of the plan's model: whether it is removed, and its score if known."""
        import pandas as pd

        columns: dict[str, Any] = {"block": self.base}
        columns["removed"] = [block in self.removed for block in self.base]
        if self.scores is not None:
            columns["score"] = self.scores
        return pd.DataFrame(columns)

    @classmethod
    def lowest(cls, scores: Scores, remove: int, name: str = "") -> LayerPlan:
        """Make the plan that removes the blocks that `scores` ranks lowest.

        Args:
            scores: a criterion's scores of the model.
            remove: the number of blocks to remove.
            name: the plan's name. Default: criterion and number.

        Returns:
            The plan.

        Raises:
            UserError: the scores cannot give that many removals.
        """
        return cls(
            removed=scores.lowest(remove),
            n_blocks=len(scores.layer_map),
            name=name,
            criterion=scores.criterion,
            scores=tuple(float(value) for value in scores.values),
            calibration=scores.calibration,
            model=scores.model,
            base=scores.layer_map,
        )

    @classmethod
    def without(cls, model: ReasoningModel, *blocks: int, name: str = "") -> LayerPlan:
        """Make the plan that removes the named blocks of `model`.

        Args:
            model: the model; its fingerprint is stored in the plan.
            *blocks: dense indices.
            name: the plan's name. Default: made from the blocks.

        Returns:
            The plan.

        Raises:
            UserError: a block does not exist or is named twice, or none would be left.
        """
        return cls(
            removed=blocks,
            n_blocks=model.n_blocks,
            name=name,
            model=model.fingerprint(),
            base=tuple(model.layer_map),
        )

    @classmethod
    def published(cls, name: str) -> LayerPlan:
        """Load a published plan, such as "llama-2-7b/shortgpt-9"; `pruning.plans` lists them.

        A paper gives no fingerprint, so `check` compares only the blocks with those of a model.

        Args:
            name: MODEL/CRITERION-N.

        Returns:
            The plan.

        Raises:
            UserError: no such plan, or N is not available.
        """
        from pruning.plans import published_plan

        found = published_plan(name)
        return cls(
            removed=found.order,
            n_blocks=found.n_blocks,
            name=found.name,
            criterion=found.criterion,
            source=f"{found.source} ({' or '.join(found.models)})",
        )

    @property
    def kept(self) -> tuple[int, ...]:
        """Dense indices of the blocks that stay, in order."""
        gone = set(self.removed)
        return tuple(l for l in self.base if l not in gone)

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Index in the pruned model -> dense index."""
        return self.kept

    def interventions(self) -> tuple[Intervention, ...]:
        """The plan for a live model: one `Skip` per removed block."""
        from interp.interventions.interventions import Skip

        return tuple(Skip(l) for l in self.removed)

    def check(self, model: ReasoningModel, fingerprint: str | None = None) -> None:
        """Refuse a model the plan was not made for.

        Args:
            model: the model; depth, blocks and weights are compared.
            fingerprint: the fingerprint of `model`, if already known. Default: computed.

        Raises:
            UserError: the model has other blocks, or other weights.
        """
        if model.n_blocks != self.n_blocks or tuple(model.layer_map) != self.base:
            raise UserError(
                f"Plan {self.name!r} is for a model with the {self.n_blocks} blocks "
                f"{_span(self.base)}; {model.name!r} has the {model.n_blocks} blocks "
                f"{_span(model.layer_map)}. Make a plan from scores of this model."
            )
        check_weights(self.name, self.model, model, fingerprint)

    def to_json(self) -> str:
        """Return the plan as one JSON object, with the version of its format."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.scores is not None:  # JSON has no inf or nan
            values["scores"] = [s if math.isfinite(s) else repr(s) for s in self.scores]
        return json.dumps({"format": FORMAT, **values}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> LayerPlan:
        """Read a plan that `to_json` wrote, or that a pruned checkpoint's pruning.json holds.

        Args:
            text: the JSON text.

        Returns:
            The plan.

        Raises:
            UserError: the text holds no valid plan, or one of another format version.
        """
        values = parse_json(text, "Not a plan")
        known = {f.name for f in fields(cls)}
        if isinstance(values, dict) and isinstance(values.get("plan"), dict):
            values = values["plan"]
        if not isinstance(values, dict) or not {"removed", "n_blocks"} <= set(values):
            raise UserError("Not a plan: expected a JSON object with `removed` and `n_blocks`.")
        version = values.pop("format", FORMAT)
        if version != FORMAT:
            raise UserError(
                f"Plan of format {short(version)}; this version of PruneScope reads {FORMAT}."
            )
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"Not a plan: unknown fields {short(unknown)}; known: {sorted(known)}.")
        wrong = sorted(name for name, value in values.items() if not _is_field(name, value))
        if wrong:
            raise UserError(
                f"Not a plan: {wrong[0]} is {short(values[wrong[0]])}; expected `removed` and "
                "`base` as lists of block indices, `n_blocks` as a number, `scores` as a list of "
                "numbers or null, and the others as text."
            )
        for name in ("removed", "base"):
            values[name] = tuple(values.get(name, ()))
        if values.get("scores") is not None:
            values["scores"] = tuple(float(s) for s in values["scores"])
        return cls(**values)

    @classmethod
    def read(cls, file: str | Path) -> LayerPlan:
        """Read the plan in a file: what `to_json` wrote, or a pruned checkpoint's pruning.json.

        Args:
            file: the path of the file.

        Returns:
            The plan.

        Raises:
            UserError: the file cannot be read, or holds no plan.
        """
        text = read_utf8(file)
        try:
            return cls.from_json(text)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None

    @classmethod
    def named(cls, plan: str) -> LayerPlan:
        """The plan in a file, or the published one of that name.

        Args:
            plan: a JSON file (a plan, or a checkpoint's pruning.json), or a name such as
                "llama-2-7b/shortgpt-9".

        Raises:
            UserError: there is no such file or published plan, or the file holds no plan.
        """
        file = Path(plan)
        if file.is_file():
            return cls.read(file)
        if file.suffix == ".json":
            raise UserError(f"Plan {plan!r}: there is no such file.")
        return cls.published(plan)


def _is_field(name: str, value: Any) -> bool:
    """Whether a value read from JSON has the type of the plan's field `name`."""
    if name == "n_blocks":
        return type(value) is int
    if name in ("removed", "base"):
        return isinstance(value, list) and all(type(l) is int for l in value)
    if name == "scores":
        return value is None or (isinstance(value, list) and all(map(_is_score, value)))
    return isinstance(value, str)


def _is_score(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**1000  # a larger one has no float
    return type(value) is float or value in ("inf", "-inf", "nan")


def _list(blocks: Sequence[int]) -> str:
    return ", ".join(map(short, blocks[:20])) + (", ..." if len(blocks) > 20 else "")


def check_weights(
    name: str, wanted: str, model: ReasoningModel, fingerprint: str | None = None
) -> None:
    """Refuse a model with other weights than a plan was made for.

    Args:
        name: the plan's name, for the error.
        wanted: the fingerprint that the plan holds; "" allows any weights.
        model: the model.
        fingerprint: the fingerprint of `model`, if already known. Default: computed.

    Raises:
        UserError: the fingerprints differ.
    """
    if not wanted:
        return
    found = model.fingerprint() if fingerprint is None else fingerprint
    if wanted != found:
        raise UserError(
            f"Plan {name!r} was made for a model with fingerprint {wanted}; {model.name!r} has "
            f"{found}. Score this model again, or drop the plan's fingerprint "
            '(dataclasses.replace(plan, model="")) to use it anyway.'
        )


def _span(blocks: Sequence[int]) -> str:
    """Dense indices as text, a run of them as `0..15`."""
    blocks = tuple(blocks)
    if len(blocks) > 2 and all(b - a == 1 for a, b in pairwise(blocks)):
        return f"{blocks[0]}..{blocks[-1]}"
    return _list(blocks)
