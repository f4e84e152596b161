"""Activation patching: which block, at which position, carries the difference between two prompts.

    found = patching_grid(model, clean, corrupt, answers=(" 12", " 14"))
    found.plot()

The corrupt prompt runs once for every cell, with the residual stream entering (or leaving) one
block replaced by the clean prompt's, at one position or at all positions of one event. The metric
says how much of the clean answer comes back (Meng et al., arXiv 2202.05262; Heimersheim and Nanda,
arXiv 2404.15255). A patch changes nothing below its block, so a cell starts there, from the streams
of one corrupt pass; the cells of a block are rows of one batch.

Shapes: L blocks, C columns (positions or events), T positions, R rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.forward_cache import read_ids, run_with_cache
from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, check_known
from interp.interventions.hooks import present
from interp.model.readout import readout
from interp.model.reasoning_model import Question, ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.batching import BATCH_TOKENS
from interp.replay.shared_prefix import Base, SharedPrefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Logits of the last position under R patches [R, V] -> one number per patch [R].
Metric = Callable[[Tensor], Tensor]
Events = Mapping[str, Sequence[bool] | Bool[np.ndarray, "*_"] | Sequence[Bool[np.ndarray, "*_"]]]
STREAMS = ("resid_pre", "resid_post", "delta")


@checked
@brief
@dataclass(frozen=True)
class PatchingGrid:
    """The metric of the corrupt prompt with one patch, for every block and column.

    Attributes:
        values: the metric under each patch [L, C].
        clean: the metric of the clean prompt.
        corrupt: the metric of the corrupt prompt.
        blocks: dense indices of the L blocks.
        columns: names of the C columns: the corrupt prompt's tokens, or the events.
        over: "position" or "event".
        stream: what is patched.
        metric: name of the metric.
        layer_map: dense index of each block of the model.
    """

    values: Float[np.ndarray, "L C"]
    clean: float
    corrupt: float
    blocks: tuple[int, ...]
    columns: tuple[str, ...] = field(repr=False)
    over: str
    stream: str
    metric: str
    layer_map: tuple[int, ...]

    @property
    def recovered(self) -> Float[np.ndarray, "L C"]:
        """The share of the difference that a patch brings back: 0 as corrupt, 1 as clean.

        Nan where the prompts do not differ in the metric.
        """
        gap = self.clean - self.corrupt
        return (self.values - self.corrupt) / (gap if gap else np.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row per block and column: the metric, and the share that comes back."""
        n, m = self.values.shape
        return pd.DataFrame(
            {
                "block": np.repeat(self.blocks, m),
                self.over: np.tile(np.arange(m), n) if self.over == "position" else
                np.tile(np.asarray(self.columns, dtype=object), n),
                **({"token": np.tile(np.asarray(self.columns, dtype=object), n)}
                   if self.over == "position" else {}),
                "value": self.values.ravel(),
                "recovered": self.recovered.ravel(),
            }
        )  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share that comes back as a heat map.

        Args:
            ax: the axes to draw on; default: new ones.

        Returns:
            The axes, with blocks on y and columns on x.
        """
        n, m = self.values.shape
        axes = axes_of(ax, (2.0 + 0.26 * m, 1.4 + 0.24 * n))
        shown = self.recovered
        top = max(1.0, float(np.nanmax(np.abs(shown)))) if np.isfinite(shown).any() else 1.0
        image = axes.imshow(shown, cmap="PuOr", vmin=-top, vmax=top, aspect="auto", origin="lower")
        names = [name.replace("$", r"\$") for name in self.columns]
        axes.set_xticks(range(m), names, rotation=90 if self.over == "position" else 30)
        axes.set_yticks(range(n), [str(block) for block in self.blocks])
        axes.set_xlabel(f"{self.over} of the patch")
        axes.set_ylabel("block (dense index)")
        label = f"share of the clean {self.metric} that comes back"
        axes.figure.colorbar(image, ax=axes, label=label)
        return axes


@checked
@torch.no_grad()
def patching_grid(
    model: ReasoningModel,
    clean: Chain | Question | Sequence[int],
    corrupt: Chain | Question | Sequence[int],
    *,
    answers: tuple[str | int, str | int] | None = None,
    metric: Metric | None = None,
    over: Literal["position", "event"] = "position",
    events: Events | None = None,
    blocks: Sequence[int] | None = None,
    stream: Literal["resid_pre", "resid_post", "delta"] = "resid_pre",
    batch_tokens: int = BATCH_TOKENS,
) -> PatchingGrid:
    """Patch the clean stream into the corrupt prompt, at every block and position (or event).

    Args:
        model: the model.
        clean: the prompt whose answer is right: a question, token ids, or a chain (its prompt and
            all but its last token).
        corrupt: the prompt to be patched, with as many tokens.
        answers: the right and the wrong next token (a text of one token, or a token id). The metric
            is then the logit of the first minus that of the second, at the last position.
        metric: used instead of `answers`: maps the logits at the last position under R patches
            [R, V], float32, to one number each [R].
        over: "position" patches one position at a time, "event" all positions of an event at once.
        events: for "event": for each event a boolean per position [T]; for chains the masks of
            `mark([corrupt], model)`, a boolean per generated token [S], where the pass that chose
            token s is patched.
        blocks: dense indices; default: all.
        stream: "resid_pre" (what enters the block), "resid_post" or "delta" (what it adds).
        batch_tokens: tokens per pass.

    Returns:
        The grid.

    Raises:
        UserError: the prompts differ in length, the answers are no single tokens, there is neither
            or both of `answers` and `metric`, or the events do not fit.
        NonFiniteError: the metric is inf or nan.
    """
    check_known(stream, STREAMS, "stream")
    ids = [read_ids(model, one) for one in (clean, corrupt)]
    if len(ids[0]) != len(ids[1]):
        raise UserError(
            f"patching_grid: the clean prompt has {len(ids[0])} tokens, the corrupt one "
            f"{len(ids[1])}: expected as many, so that positions correspond."
        )
    measure, label = _metric(model, answers, metric)
    positions, columns = _columns(model, corrupt, ids[1], over, events)
    named = list(model.layer_map if blocks is None else blocks)
    places = present(model, named)
    if not named or len(set(named)) < len(named):
        raise UserError(f"patching_grid(blocks={named}): expected at least one, and none twice.")
    kept = [f"blocks.{b}.hook_resid_{side}" for b in named for side in ("pre", "post")]
    good = run_with_cache(model, ids[0], names=[*kept, "ln_final.hook_out"])
    size = max(1, min(len(columns), batch_tokens // len(ids[1])))
    base = Base(model)
    values = np.empty((len(named), len(columns)))
    bad = SharedPrefix(base, torch.tensor([ids[1]] * size, device=model.device))
    for row, (block, place) in enumerate(zip(named, places, strict=True)):
        before, after = (good[f"blocks.{block}.hook_resid_{side}"] for side in ("pre", "post"))
        for start in range(0, len(columns), size):
            where = torch.stack(positions[start : start + size])  # [R, T]
            # the batch has `size` rows; the last group may fill fewer, and the rest is not read
            mask = torch.zeros((size, where.shape[1]), dtype=torch.bool)
            mask[: len(where)] = where
            at = mask.to(model.device)[..., None]
            entering, leaving = bad.entering[place], bad.entering[place + 1]
            if stream == "resid_pre":
                changed = torch.where(at, before.to(entering), entering)
                leaving = bad.run(base, place, changed)
            elif stream == "resid_post":
                leaving = torch.where(at, after.to(leaving), leaving)
            else:
                delta = (after - before).to(entering)
                leaving = torch.where(at, entering + delta, leaving)
            for later in range(place + 1, model.n_blocks):
                leaving = bad.run(base, later, leaving)
            last = model.final_norm(leaving[: len(where), -1:])
            found = _measured(measure, readout(model, last)[:, -1])
            values[row, start : start + size] = found
    both = torch.cat(
        [
            good["ln_final.hook_out"][:, -1:].to(model.device),
            model.final_norm(bad.entering[-1][:1, -1:]),
        ]
    )
    whole = _measured(measure, readout(model, both)[:, -1])
    if not (np.isfinite(values).all() and np.isfinite(whole).all()):
        raise NonFiniteError("patching_grid: the metric is inf or nan; check it and the weights.")
    return PatchingGrid(
        values=values,
        clean=float(whole[0]),
        corrupt=float(whole[1]),
        blocks=tuple(int(b) for b in named),
        columns=columns,
        over=over,
        stream=stream,
        metric=label,
        layer_map=model.layer_map,
    )


def _metric(
    model: ReasoningModel, answers: tuple[str | int, str | int] | None, metric: Metric | None
) -> tuple[Metric, str]:
    if (answers is None) == (metric is None):
        raise UserError(
            "patching_grid: expected either answers=(right, wrong), for the difference of their "
            "logits, or metric=..., and not both."
        )
    if metric is not None:
        return metric, getattr(metric, "__name__", "metric").strip("<>")
    assert answers is not None
    right, wrong = (_token(model, answer) for answer in answers)
    return lambda logits: logits[:, right] - logits[:, wrong], "logit difference"


def _token(model: ReasoningModel, answer: str | int) -> int:
    found = [answer] if isinstance(answer, int) else model.encode(answer)
    if len(found) != 1 or not 0 <= found[0] < model.vocab_size:
        raise UserError(
            f"patching_grid(answers=...): {answer!r} is {len(found)} tokens of {model.name}; "
            "expected one token of its vocabulary (a leading space may belong to it)."
        )
    return int(found[0])


def _measured(measure: Metric, logits: Float[Tensor, "R V"]) -> Float[np.ndarray, " R"]:
    found = measure(logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"patching_grid: the metric returned {given} for logits {list(logits.shape)}; expected "
            f"a tensor of {len(logits)} numbers, one per row."
        )
    return found.double().cpu().numpy()


def _columns(
    model: ReasoningModel,
    corrupt: object,
    ids: Sequence[int],
    over: str,
    events: Events | None,
) -> tuple[list[Bool[Tensor, " T"]], tuple[str, ...]]:
    """For each column a mask of the positions that are patched, and its name."""
    if (over == "event") != (events is not None):
        raise UserError('patching_grid: over="event" goes with events=..., and only with it.')
    if events is None:
        names = tuple(model.text([i], skip_special=False) for i in ids)
        return list(torch.eye(len(ids), dtype=torch.bool)), names
    masks = []
    for name, given in events.items():
        rows = [given] if len(given) and np.ndim(given[0]) == 0 else list(given)  # type: ignore[index]
        mask = np.asarray(rows[0], dtype=bool) if len(rows) == 1 else np.zeros(0, bool)
        if isinstance(corrupt, Chain) and mask.shape == (corrupt.n_tokens,):
            mask = np.r_[np.zeros(len(corrupt.prompt_ids) - 1, dtype=bool), mask]
        if mask.shape != (len(ids),):
            raise UserError(
                f"patching_grid: event {name!r} has the shape {mask.shape}; expected a boolean for "
                f"each of {len(ids)} positions, or for each generated token of a chain."
            )
        masks.append(torch.from_numpy(mask))
    if not masks:
        raise UserError("patching_grid: no event was given; expected at least one mask.")
    return masks, tuple(events)
