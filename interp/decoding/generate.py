"""Chains from prompts: every prompt x variant x sample x budget, in that order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from interp.activations.reducers import Moments
from interp.chains.chain import Budget, Chain, Chains
from interp.decoding.decode_options import DecodeOptions, Progress
from interp.decoding.recording import LiveMoments
from interp.decoding.request import Request, check, cross
from interp.decoding.sampling import Sampling
from interp.decoding.scheduler import Scheduler
from interp.decoding.stop_strings import StopStrings
from interp.errors import UserError
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import Question, ReasoningModel


def generate(
    model: ReasoningModel,
    prompts: Sequence[Question] | Sequence[Sequence[int]],
    variants: Sequence[VariantLike] | None = None,
    budget: Budget | Sequence[Budget] | None = None,
    samples: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    problem_ids: Sequence[str] | None = None,
    slots: int | None = None,
    progress: bool | Callable[[int, int, int], None] = False,
    stop: Sequence[str] = (),
    stop_on_loop: bool = False,
    record: bool = False,
    moments: Moments | None = None,
    compiled: bool | None = None,
    thinking: bool = True,
) -> Chains:
    """Generates chains for every prompt x variant x sample x budget, in that order.

    One seed gives the same chains whatever else is decoded beside them (up to ties of float noise).

    Args:
        model: the model.
        prompts: questions, lists of messages, or token ids ready made.
        variants: variants of the model, decoded side by side; the dense model by default.
        budget: tokens for thinking and answer; of several, the smaller are prefixes of the larger.
        samples: chains per prompt, variant and budget.
        seed: seed of the noise, which all variants of one sample share.
        sampling: temperature, top-k and top-p.
        problem_ids: name of each prompt; its number by default.
        slots: rows decoded side by side; by default as many as fit, at most 128 on a CPU.
        progress: True for a progress bar, or a function of (tokens, finished chains, chains).
        stop: strings that end an answer.
        stop_on_loop: end a row that certainly loops and record it as "looped".
        record: keep what every block does to the residual stream (`chain.stream`).
        moments: a reducer that takes means and second moments of the stream meanwhile.
        compiled: see `DecodeOptions`.
        thinking: whether prompts ask the model to think.

    Returns:
        The chains.

    Raises:
        UserError: something asked for cannot be done; says what.
        NonFiniteError: a logit is not a finite number.
    """
    requests = cross(
        model,
        prompts,
        variants=variants,
        budgets=budget if budget is not None else Budget(),
        samples=samples,
        seed=seed,
        problem_ids=problem_ids,
        thinking=thinking,
    )
    order = {
        (r.problem, r.variant.name, r.sample, b): i
        for i, (r, b) in enumerate((r, b) for r in requests for b in r.budgets)
    }
    chains: list[Chain] = []
    with _ProgressBar(progress, len(order)) as report:
        found = decode(
            model,
            requests,
            sampling=sampling or Sampling(),
            slots=slots,
            stop=stop,
            stop_on_loop=stop_on_loop,
            record=record,
            moments=moments,
            compiled=compiled,
            progress=report,
        )
        chains.extend(found)
    chains.sort(key=lambda c: order[c.problem, c.variant, c.sample, c.budget])
    return Chains(chains, model)


ReasoningModel.decoder = generate


class _ProgressBar:
    """tqdm over finished chains when asked for by True; a caller's function as it is."""

    def __init__(self, progress: bool | Callable[[int, int, int], None], total: int) -> None:
        self.bar = None
        self.report = None if isinstance(progress, bool) else progress
        if progress is True:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="chain")
            self.report = self._update

    def _update(self, tokens: int, finished: int, total: int) -> None:
        assert self.bar is not None
        self.bar.set_postfix_str(f"{tokens} tokens", refresh=False)
        self.bar.update(finished - self.bar.n)

    def __enter__(self) -> Callable[[int, int, int], None] | None:
        return self.report

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def decode(
    model: ReasoningModel,
    requests: Sequence[Request],
    *,
    sampling: Sampling | None = None,
    slots: int | None = None,
    stop: Sequence[str] = (),
    stop_on_loop: bool = False,
    record: bool = False,
    moments: Moments | None = None,
    compiled: bool | None = None,
    progress: Progress | None = None,
) -> Generator[Chain, None, None]:
    """Decodes requests side by side.

    Args:
        model: the model.
        requests: what to decode.
        sampling: temperature, top-k and top-p.
        slots: rows decoded side by side.
        stop: strings that end an answer.
        stop_on_loop: end a row that certainly loops and record it as "looped".
        record: keep what every block does to the residual stream.
        moments: a reducer that takes means and second moments of the stream meanwhile.
        compiled: see `DecodeOptions`.
        progress: called with generated tokens, finished chains and chains in all.

    Yields:
        One chain per request and budget, as soon as it is finished.

    Raises:
        UserError: something asked for cannot be done; says what.
        NonFiniteError: a logit is not a finite number; the chains already yielded stand.
    """
    check(model, requests)
    options = DecodeOptions(
        sampling=sampling or Sampling(),
        slots=slots,
        stop=tuple(stop),
        stop_on_loop=stop_on_loop,
        record=record,
        moments=moments,
        compiled=compiled,
        progress=progress,
    )
    if slots is not None and slots < 1:
        raise UserError(f"slots={slots}: expected 1 or more.")
    if not model.stop_ids:
        raise UserError(f"{model.name} has no end-of-sequence token: set tokenizer.eos_token.")
    if moments is not None:
        LiveMoments.check(moments, requests)
    StopStrings(model, stop)  # refuses what cannot end an answer
    if not requests:
        return
    scheduler = Scheduler(model, requests, options)
    try:
        yield from scheduler.run()
    finally:
        scheduler.close()
