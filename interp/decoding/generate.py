"""Chains from prompts: every prompt x variant x sample x budget, in that order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from interp.activations.reducers import Moments
from interp.chains.chain import Budget, Chain, Chains
from interp.decoding.recording import LiveMoments
from interp.decoding.request import Request, check, cross
from interp.decoding.sampling import Sampling
from interp.decoding.scheduler import Progress, Scheduler
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
    """Chains for every prompt x variant x sample x budget, in that order.

    prompts: questions, message lists, or token ids ready made. record: keep what every block
    does to the residual stream (`chain.stream`). moments: take means and second moments of it
    into this reducer. stop, stop_on_loop, compiled: see
    `interp.decoding.generate.decode`. One seed gives the same chains whatever else is decoded
    beside them (up to ties of float noise).
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
    """Yields one chain for each request x budget, each as soon as it is finished.

    slots: rows decoded side by side (default: as many as fit, at most 128 on a CPU). stop: strings
    that end an answer. stop_on_loop: a row that certainly loops is ended and recorded as "looped".
    record: keep what every block does to the residual stream (`Chain.stream`). moments: fill it
    with the passes that chose the tokens of finished chains (one budget a request). compiled: None
    captures passes in CUDA graphs on a CUDA device; True also compiles the blocks with
    torch.compile, on any device; False does neither. progress(tokens, finished, total) counts
    generated tokens and chains. Chains come in the order they finish.

    A logit that is not a number raises NonFiniteError; the chains already yielded stand.
    """
    check(model, requests)
    if slots is not None and slots < 1:
        raise UserError(f"slots={slots}: expected 1 or more.")
    if not model.stop_ids:
        raise UserError(f"{model.name} has no end-of-sequence token: set tokenizer.eos_token.")
    if moments is not None:
        LiveMoments.check(moments, requests)
    ends = StopStrings(model, stop)
    if not requests:
        return
    how = {"record": record, "moments": moments, "compiled": compiled}
    engine = Scheduler(
        model, requests, sampling or Sampling(), slots, ends, stop_on_loop, progress, how
    )
    try:
        yield from engine.run()
    finally:
        engine.close()
