"""Entry points of the decoder: `generate` takes prompts, `decode` takes requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial

from interp.activations.reducers import Moments
from interp.chains.chain import Budget, Budgets, Chain, Chains
from interp.decoding.decode_options import DecodeOptions, Progress
from interp.decoding.recording import LiveMoments
from interp.decoding.request import Request, check, cross
from interp.decoding.sampling import Sampling
from interp.decoding.scheduler import Scheduler
from interp.decoding.stop_strings import StopStrings
from interp.decoding.unrolled import refuse_moments, unrolled
from interp.errors import UserError
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import DecoderName, Question, ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.work_listener import tell


@checked
def generate(
    model: ReasoningModel,
    prompts: Sequence[Question] | Sequence[Sequence[int]],
    variants: Sequence[VariantLike] | None = None,
    budget: Budgets | None = None,
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
    drafts: bool = True,
    thinking: bool = True,
    decoder: DecoderName = "auto",
) -> Chains:
    """Generates a chain for every prompt x variant x sample x budget, in that order.

    One seed gives the same chains, whatever else is in the batch (except for ties in float noise).

    Args:
        model: the model.
        prompts: questions, lists of messages, `RawPrompt`s, or lists of token ids.
        variants: variants of the model, decoded in one batch; the dense model by default.
        budget: thinking and answer tokens, or the thinking tokens alone as a number; `Budget()` by
            default. With several budgets, the
            thinking at a smaller budget is a prefix of the thinking at a larger one.
        samples: chains per prompt, variant and budget.
        seed: seed of the noise. All variants of one sample share the noise.
        sampling: temperature and filters; by default the model's own distribution.
        problem_ids: name of each prompt; "0", "1", ... by default.
        slots: rows in one batch; by default as many as fit into memory, at most 128 on a CPU and
            256 on a CUDA device.
        progress: True for a progress bar, or a function that is called with (generated tokens,
            finished chains, total chains).
        stop: strings that end an answer.
        stop_on_loop: whether a row that certainly loops ends there, recorded as "looped".
        record: whether to keep what every block does to the residual stream (`Chain.stream`).
        moments: a reducer that takes means and second moments of the stream while decoding; it
            needs one budget.
        compiled: None captures passes in CUDA graphs on a CUDA device; True also compiles the
            blocks with torch.compile; False does neither.
        drafts: whether rows that repeat themselves draft their next tokens, which is faster and
            changes no chain.
        thinking: whether the model thinks before it answers.
        decoder: "fast", "generic" (Hugging Face's own cache, for any architecture), or "auto" for
            the fast one wherever it can decode the model.

    Returns:
        The chains.

    Raises:
        UserError: an argument is invalid or cannot be combined with the model.
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
            drafts=drafts,
            progress=report,
            decoder=decoder,
        )
        chains.extend(found)
    chains.sort(key=lambda c: order[c.problem, c.variant, c.sample, c.budget])
    return Chains(chains, model)


ReasoningModel.decoder = generate


class _ProgressBar:
    """Progress report: a tqdm bar of finished chains for True, or the caller's own function."""

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


@checked
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
    drafts: bool = True,
    progress: Progress | None = None,
    decoder: DecoderName = "auto",
) -> Generator[Chain, None, None]:
    """Decodes requests in one batch with continuous batching.

    Args:
        model: the model.
        requests: the requests.
        sampling: temperature and filters; by default the model's own distribution.
        slots: rows in one batch; by default as many as fit into memory, at most 128 on a CPU and
            256 on a CUDA device.
        stop: strings that end an answer.
        stop_on_loop: whether a row that certainly loops ends there, recorded as "looped".
        record: whether to keep what every block does to the residual stream (`Chain.stream`).
        moments: a reducer that takes means and second moments of the stream while decoding; it
            needs one budget per request.
        compiled: None captures passes in CUDA graphs on a CUDA device; True also compiles the
            blocks with torch.compile; False does neither.
        drafts: whether rows that repeat themselves draft their next tokens, which is faster and
            changes no chain.
        progress: function called with (generated tokens, finished chains, total chains); by default
            whoever listens (`interp.plumbing.work_listener`) is told.
        decoder: "fast", "generic", or "auto" for the one that the model prefers.

    Yields:
        One chain per request and budget, as soon as it is finished, in no fixed order.

    Raises:
        UserError: a request or an argument is invalid or cannot be combined with the model.
        NonFiniteError: a logit is not a finite number; the chains already yielded are valid.
    """
    check(model, requests)
    options = DecodeOptions(
        sampling=sampling or Sampling(),
        slots=slots,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_on_loop=stop_on_loop,
        record=record,
        moments=moments,
        compiled=compiled,
        drafts=drafts,
        progress=progress,
        decoder=decoder,
    )
    if slots is not None and slots < 1:
        raise UserError(f"slots={slots}: expected 1 or more.")
    if not model.stop_ids:
        raise UserError(f"{model.name} has no end-of-sequence token: set tokenizer.eos_token.")
    if moments is not None:
        LiveMoments.check(moments, requests)
        refuse_moments(model, requests)
    StopStrings(model, stop)  # raises UserError for an invalid stop string
    if not requests:
        return
    total, made, finished = sum(len(r.budgets) for r in requests), 0, 0
    for part in unrolled(model, requests):
        report = partial(_onward, progress or _told, made, finished, total)
        options = replace(options, progress=report)
        scheduler = Scheduler(part.model, part.requests, options)
        try:
            yield from map(part.restored, scheduler.run())
        finally:
            scheduler.close()
        made, finished = made + scheduler.made, finished + scheduler.finished


def _told(made: int, finished: int, total: int) -> None:
    """Reports to whoever listens."""
    tell("decoding", finished, total, made)


def _onward(
    progress: Progress, before: int, ended: int, total: int, made: int, finished: int, _: int
) -> None:
    """Reports the progress of one part of the requests as that of all."""
    progress(before + made, ended + finished, total)
