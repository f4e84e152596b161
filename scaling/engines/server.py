"""The server engine: a model on vLLM, SGLang or `transformers serve`.

Requests go to /v1/completions, with token ids in and out where the server can
(`scaling.engines.dialects`). Budgets are enforced by continuation (`scaling.engines.budget_walk`).
Requests run side by side, are retried while the server restarts, and every chain is passed on as
soon as it is finished, so a study loses none.

A server has one model and no blocks to skip, so the only variant is dense. To measure a pruned
model, save it with `prunescope prune` and serve the checkpoint. Tokenizer, delimiters and chat
template are read locally from `source`.

Caveats: the same seed gives the same chains only as far as the server's batching is deterministic.
Its noise differs from the local decoder's, so its chains pair only with each other. It gives no
entropies. See docs/serving.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.chains.chain import Chain
from interp.decoding.forced_line import ForcedLine
from interp.decoding.request import Request, check
from interp.decoding.sampling import Sampling
from interp.decoding.stop_strings import StopStrings
from interp.decoding.thinking_marks import ThinkingMarks
from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.engines.budget_walk import PIECE, Walk
from scaling.engines.dialects import Ask, Kind, Said, checked_logprob, logprobs_of, recognise
from scaling.engines.endpoint import Endpoint, EndpointError, Retry
from scaling.engines.engine import EngineText
from scaling.engines.served_model import identity, weightless
from scaling.engines.threads import spread

if TYPE_CHECKING:
    from interp.interventions.interventions import VariantLike
    from interp.model.delimiters import Delimiters, FormatChoice
    from pruning.plan import LayerPlan
    from pruning.scores import Scores

__all__ = ["ServerEngine"]

SIDE_BY_SIDE = 32  # requests under way
FIRST = Retry(tries=3, patience=20.0)  # for the requests before any decoding
PATIENCE = Retry(tries=10_000, patience=900.0, first=1.0, longest=15.0)  # big models load slowly


@checked
class ServerEngine(EngineText):
    """An `Engine` over the server at a URL.

    Args:
        url: the server, such as http://localhost:8000.
        source: folder or Hub name of the served model ("testbed" for the bundled reasoner).
        served: the model's name at the server; None takes the only one there.
        concurrency: requests under way; None is 32 (transformers serve: 1).
        timeout: seconds for one answer (a piece of at most `piece` tokens).
        retry: how long to wait for a server that is down or busy.
        piece: most tokens per request to the server.
        key_env: environment variable with the server's key, where it needs one.
        delimiters: the thinking format; None finds the model's own.
        trust_remote_code: whether the checkpoint's own code may run (tokenizer and configuration).
    """

    def __init__(
        self,
        url: str,
        source: str | Path,
        *,
        served: str | None = None,
        concurrency: int | None = None,
        timeout: float = 900.0,
        retry: Retry = PATIENCE,
        piece: int = PIECE,
        key_env: str | None = "VLLM_API_KEY",
        delimiters: Delimiters | FormatChoice | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        for name, value in (("concurrency", concurrency), ("piece", piece)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: expected 1 or more.")
        self._endpoint = Endpoint(url, key_env=key_env, timeout=timeout, retry=retry)
        listed = _listed(self._endpoint)
        self.served = _served(self._endpoint, served, listed)
        self.model = weightless(source, delimiters=delimiters, trust_remote_code=trust_remote_code)
        super().__init__(self.model)
        if not self.model.stop_ids:
            raise UserError(f"{source} has no end-of-sequence token: set tokenizer.eos_token.")
        try:
            self._dialect = recognise(self._endpoint, self.served, self.model, FIRST)
        except UserError as error:
            raise UserError(f"{error}{_others(listed)}") from None
        if concurrency and concurrency > 1 and not self._dialect.parallel:
            raise UserError(
                f"concurrency={concurrency}: {self.kind} serve answers one request after another "
                f"and has one seed for all, so requests go one at a time; leave the option out."
            )
        # threads must not share a tokenizer with the one that grades
        walker = copy.copy(self.model)
        walker.tokenizer = copy.deepcopy(self.model.tokenizer)
        self._walker, self._line = walker, ForcedLine(walker)
        self.concurrency = concurrency or (SIDE_BY_SIDE if self._dialect.parallel else 1)
        self.piece = piece
        window = listed.get(self.served)
        self.max_positions = min(self.model.max_positions, window or self.model.max_positions)

    def __repr__(self) -> str:
        return f"ServerEngine({self._endpoint.url!r}, {self.served!r}, {self.kind})"

    @property
    def kind(self) -> Kind:
        """The kind of server."""
        return self._dialect.kind

    @property
    def exact(self) -> bool:
        """Whether token ids come from the server itself (else they are read back from text)."""
        return self._dialect.exact

    @property
    def about(self) -> str:
        """The engine as recorded in the store."""
        how = "token ids" if self.exact else "tokens read back from text"
        return f"{self.kind} at {self._endpoint.url}, {self.served}, {how}"

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block of the served model."""
        return self.model.layer_map

    def fingerprint(self) -> str:
        """Identity of configuration, vocabulary, server kind and served name.

        The server's weights are not visible: give another checkpoint another name.
        """
        how = "tokens" if self.exact else "text"
        return f"{identity(self.model)} served as {self.served!r} by {self.kind}, {how}"

    # ---------------------------------------------------------------- generation

    def decode(
        self,
        requests: Sequence[Request],
        *,
        sampling: Sampling,
        stop_on_loop: bool = False,
        stop: Sequence[str] = (),
    ) -> Iterator[Chain]:
        """Yield chains as they finish; EndpointError if the server stays away.

        Chains that finished before the error have been yielded, so a study keeps them.
        """
        self._check(requests)
        endpoint = self._endpoint.again()
        strings = StopStrings(self._walker, stop)
        marks = ThinkingMarks(self._walker, strings)

        def walk(request: Request) -> Iterator[Chain]:
            return Walk(
                request,
                self.model.delimiter_ids,
                marks,
                strings,
                self._line,
                self.model.stop_ids,
                self.max_positions,
                self.layer_map,
                sampling,
                partial(self._ask, endpoint),
                stop_on_loop,
                self.piece,
            ).chains()

        return spread(requests, walk, threads=self.concurrency, stop=endpoint.stop)

    def ask(self, ask: Ask) -> Said:
        """Send one request to the server."""
        return self._ask(self._endpoint, ask)

    def _ask(self, endpoint: Endpoint, ask: Ask) -> Said:
        body = self._dialect.body(ask)
        return endpoint.post("completions", body, read=partial(self._dialect.read, ask))

    def _check(self, requests: Sequence[Request]) -> None:
        for request in requests:
            _only_dense(request.variant)
            self._room(f"The prompt of problem {request.problem!r}", len(request.read))
        check(self.model, requests)

    def _room(self, what: str, tokens: int) -> None:
        """Raise UserError where no position is left for the token that every request generates."""
        if tokens >= self.max_positions:
            raise UserError(
                f"{what} has {tokens} tokens; the server has {self.max_positions} positions, one "
                f"of which must be left for a new token: serve it with more (vLLM: "
                f"--max-model-len)."
            )

    # ---------------------------------------------------------------- likelihood and scores

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[VariantLike],
    ) -> Float[np.ndarray, "V P O"]:
        """Log-probability of each option of each prompt, in nats: [V, P, O].

        One echoed request per option. Prompts with fewer options than others are padded with nan.
        """
        for variant in variants:
            _only_dense(variant)
        if not self.exact:
            raise UserError(
                f"{self.kind} serve gives no log-probabilities, so choices cannot be scored by "
                f"likelihood. Serve the model with vLLM or SGLang, run it locally, or leave such "
                f"benchmarks out (--benchmarks)."
            )
        if len(prompts) != len(options) or not all(o for few in options for o in (few, *few)):
            raise UserError("Expected options for every prompt, each of at least one token.")
        for p, few in enumerate(options):
            longest = len(prompts[p]) + max(map(len, few))
            self._room(f"Prompt {p} with its longest option", longest)
        jobs = [(p, o) for p, few in enumerate(options) for o in range(len(few))]
        table = np.full((len(prompts), max(map(len, options), default=0)), np.nan)
        endpoint = self._endpoint.again()

        def score(job: tuple[int, int]) -> list[tuple[tuple[int, int], float]]:
            p, o = job
            return [(job, self._likelihood(endpoint, list(prompts[p]), list(options[p][o])))]

        for (p, o), value in spread(jobs, score, threads=self.concurrency, stop=endpoint.stop):
            table[p, o] = value
        return np.broadcast_to(table, (len(variants), *table.shape)).copy()

    def _likelihood(self, endpoint: Endpoint, prompt: list[int], option: list[int]) -> float:
        body = {"model": self.served, "prompt": prompt + option, "max_tokens": 1}
        body |= {"temperature": 1.0, "echo": True, "logprobs": 1}

        def read(reply: dict[str, Any]) -> float:
            choices = reply.get("choices")
            choice = choices[0] if isinstance(choices, list) and choices else None
            values = logprobs_of(choice).get("token_logprobs") if isinstance(choice, dict) else None
            values = values if isinstance(values, list) else []
            own = values[len(prompt) : len(prompt) + len(option)]
            if len(values) < len(prompt) + len(option) or any(v is None for v in own):
                raise EndpointError(
                    "nonsense",
                    f"{len(values)} log-probabilities for an echo of {len(prompt + option)} "
                    f"tokens: this server does not score its prompt.",
                )
            return math.fsum(map(checked_logprob, own))

        return endpoint.post("completions", body, read=read)

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """Always raises UserError: criteria need weights, which only the server has."""
        raise UserError(
            f"A server cannot score blocks ({criterion}). Score and prune the checkpoint with "
            f"`prunescope prune`, serve what it writes, and measure that."
        )

    def choose(self, repair: str, chains: Sequence[Chain], remove: int) -> LayerPlan:
        """Always raises UserError, as `score` does."""
        raise UserError(
            f"A server cannot merge blocks ({repair}): write the checkpoint with `prunescope "
            f"prune --repair {repair}`, serve it, and measure that."
        )


def _only_dense(variant: VariantLike) -> None:
    if variant.interventions():
        raise UserError(
            f"A server runs only the model that it serves; it cannot run {variant.name!r}. "
            f"Write the pruned checkpoint with `prunescope prune`, serve that, and measure it with "
            f"`prunescope scale --server`."
        )


def _listed(endpoint: Endpoint) -> dict[str, int | None]:
    """The models that the server lists, with the positions that each has.

    The list is optional: transformers serve fails to make one without a Hub cache.
    """
    try:
        data = endpoint.get("models", retry=FIRST).get("data")
    except EndpointError as error:
        if error.kind in ("down", "timeout", "stopped") or error.status in (401, 403):
            raise
        return {}
    entries = [e for e in data if isinstance(e, dict)] if isinstance(data, list) else []
    found: dict[str, int | None] = {}
    for entry in entries:
        window = entry.get("max_model_len")
        found[str(entry.get("id"))] = window if type(window) is int and window > 0 else None
    return found


def _served(endpoint: Endpoint, served: str | None, listed: dict[str, int | None]) -> str:
    if served:
        return served  # may be missing in the list: transformers serve lists its cache
    if len(listed) == 1:
        return next(iter(listed))
    raise UserError(
        f"{endpoint.url} lists {len(listed)} models: name the one to ask (--served-model)."
        + _others(listed)
    )


def _others(listed: dict[str, int | None]) -> str:
    names = sorted(listed)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f" It lists: {', '.join(names[:8])}{more}." if names else ""
