"""Long chains, many at once: continuous batching with row-wise interventions.

Every request (problem x sample x variant) takes a slot of one batch; when it is done a waiting one
takes its place, so the batch stays full and the weights are read once a step for all variants.
Rows are kept dense (slots 0..n-1), each with its own length in the key/value cache.

Requests of one prompt share its prefill, unless their variant changes how the prompt is read. The
prefill stops before the prompt's last token: reading that one is every row's first pass of its own
(step -1). Budgets nest: see `interp.rows`. Noise is keyed by (seed, problem, sample, step): see
`interp.sampling`.

The device runs `stride` passes between two looks of the host (1 on a CPU, where looking is free);
what a row generates past its own end is thrown away.

Hooks and the attention function are in the model only while a stride runs, never while the
generator is suspended, so a caller may use the model between two chains.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from interp.attention import MaskForm, attending, causal_masks, kernel_ready, no_masks
from interp.cache import Prefix, RowCache
from interp.chains import Budget, Chain, Finish, ThinkingFinish
from interp.errors import NonFiniteError, UserError
from interp.fused import fuse, fused
from interp.interventions import VariantLike
from interp.requests import Request, check, cross
from interp.rows import Record, Row, Task, finish_answer, finish_without_answer, tail_period
from interp.rowwise import RowHooks, reject_row_patches
from interp.sampling import Sampling, choose, measure

if TYPE_CHECKING:
    from interp.model import ReasoningModel

__all__ = ["Budget", "Request", "Sampling", "cross", "decode"]

Progress = Callable[[int, int, int], None]
PREFILL_TOKENS = 8192  # padded tokens in one prefill pass
LOOP_EVERY = 64  # steps between two looks for a loop
REPORT_EVERY = 16  # strides between two progress reports
CPU_SLOTS, CUDA_SLOTS = 128, 256


def decode(
    model: ReasoningModel,
    requests: Sequence[Request],
    *,
    sampling: Sampling | None = None,
    slots: int | None = None,
    stop_on_loop: bool = False,
    progress: Progress | None = None,
) -> Generator[Chain, None, None]:
    """Yields one chain for each request x budget, each as soon as it is finished.

    slots: rows decoded side by side (default: as many as fit, at most 128 on a CPU). stop_on_loop:
    a row that certainly loops is ended and recorded as "looped". progress(tokens, finished, total)
    counts generated tokens and chains. Chains come in the order they finish.

    A logit that is not a number raises NonFiniteError; the chains already yielded stand.
    """
    check(model, requests)
    if slots is not None and slots < 1:
        raise UserError(f"slots={slots}: expected 1 or more.")
    if not model.stop_ids:
        raise UserError(f"{model.name} has no end-of-sequence token: set tokenizer.eos_token.")
    if not requests:
        return
    engine = _Engine(model, requests, sampling or Sampling(), slots, stop_on_loop, progress)
    try:
        yield from engine.run()
    finally:
        engine.close()


@dataclass
class _Shared:
    """A computed prefill and how many waiting requests still want row `row` of it."""

    prefix: Prefix
    row: int


class _Engine:
    def __init__(
        self,
        model: ReasoningModel,
        requests: Sequence[Request],
        sampling: Sampling,
        slots: int | None,
        stop_on_loop: bool,
        progress: Progress | None,
    ) -> None:
        self.model, self.sampling = model, sampling
        self.stop_on_loop, self.progress = stop_on_loop, progress
        variants: dict[str, VariantLike] = {}
        for r in requests:
            variants.setdefault(r.variant.name, r.variant)
        reject_row_patches(list(variants.values()))
        self.variant_number = {name: i for i, name in enumerate(variants)}
        self.hooks = RowHooks(model, list(variants.values()), bypass=True)
        self.masks = MaskForm.of(model)
        self.stop_ids = np.asarray(model.stop_ids)
        self.end_ids = model.delimiter_ids.think_end
        self.stride = 1 if model.device.type == "cpu" else 8

        grouped: dict[Any, list[Request]] = {}  # one prompt's requests together: one prefill
        for r in requests:
            grouped.setdefault(r.prefill_key, []).append(r)
        self.waiting = deque(r for group in grouped.values() for r in group)
        self.wanting = Counter(r.prefill_key for r in requests)
        self.shared: dict[Any, _Shared] = {}

        longest = max(_most_columns(model, r) for r in requests)
        self.slots = min(slots or _default_slots(model, longest), len(requests) * 4)
        self.batch = max(1, self.slots // 16)  # requests admitted together
        by_length = kernel_ready(model)
        self.maskless = no_masks(self.masks, model.dtype) if by_length else None
        capacity = longest if by_length else min(longest, 256)
        self.cache = RowCache(model.n_blocks, self.slots, capacity, blank=not by_length)
        self.short_ways = fuse(model, self.cache) if by_length else {}

        self.rows: list[Row] = []
        n = self.slots
        self.step = np.zeros(n, np.int64)  # index of the next generated token
        self.prompt = np.zeros(n, np.int64)
        self.limit = np.zeros(n, np.int64)
        self.own = np.zeros(n, np.int64)  # first index the model chooses itself in this task
        self.last = np.zeros(n, np.int64)  # the token to be read next
        self.thinks = np.zeros(n, bool)
        self.noise = np.zeros(n, np.int64)
        columns = 256
        self.tokens = np.zeros((n, columns), np.int64)
        self.logprob = np.full((n, columns), np.nan, np.float32)
        self.entropy = np.full((n, columns), np.nan, np.float32)
        self.forced = np.zeros((n, columns), bool)
        self.dirty = True
        self.made = self.finished = 0
        self.total = sum(len(r.budgets) for r in requests)

    def close(self) -> None:
        self.rows.clear()
        self.shared.clear()

    # ---------------------------------------------------------------- the loop

    def run(self) -> Iterator[Chain]:
        turns = 0
        while self.waiting or self.rows:
            self._fill()
            tokens, logprob, entropy, finite = self._stride()
            chains, broken = self._take(tokens, logprob, entropy, finite)
            self.finished += len(chains)
            turns += 1
            if self.progress and (chains or turns % REPORT_EVERY == 0):
                self.progress(self.made, self.finished, self.total)
            yield from chains
            if broken is not None:
                raise broken

    # ---------------------------------------------------------------- filling slots

    def _fill(self) -> None:
        """Waiting requests into free slots, a few at a time; then, at the end, spare tasks."""
        free = self.slots - len(self.rows)
        if self.waiting and (free >= self.batch or not self.rows):
            new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
            self._admit(new)
        elif not self.waiting and free:
            self._spread(free)

    def _admit(self, new: list[Request]) -> None:
        self._prefill(new)
        first = len(self.rows)
        by_prefix: dict[int, tuple[Prefix, list[int], list[int]]] = {}
        for slot, request in enumerate(new, start=first):
            self.rows.append(Row.begin(request, self.model.delimiter_ids, self.model.max_positions))
            self._enter(slot)
            key = request.prefill_key
            if (have := self.shared.get(key)) is not None:
                _, slots, picks = by_prefix.setdefault(id(have.prefix), (have.prefix, [], []))
                slots.append(slot)
                picks.append(have.row)
            self.wanting[key] -= 1
            if not self.wanting[key]:
                self.shared.pop(key, None)
        with torch.inference_mode():
            for prefix, slots, picks in by_prefix.values():
                width = max(len(self.rows[s].request.prompt_ids) for s in slots)
                self.cache.reserve(width)
                self.cache.put(torch.tensor(slots), prefix, torch.tensor(picks))

    def _prefill(self, new: list[Request]) -> None:
        """Keys and values of every prompt not yet computed, all but its last token."""
        todo: dict[Any, Request] = {}
        for r in new:
            if r.prefill_key not in self.shared and len(r.prompt_ids) > 1:
                todo.setdefault(r.prefill_key, r)
        items = sorted(todo.items(), key=lambda item: len(item[1].prompt_ids))
        while items:
            width = len(items[-1][1].prompt_ids) - 1  # the longest sets the width of its pass
            count = max(1, min(len(items), PREFILL_TOKENS // width))
            part, items = items[-count:], items[:-count]
            prefix = self._read([r for _, r in part], width)
            for i, (key, _) in enumerate(part):
                self.shared[key] = _Shared(prefix, i)

    def _read(self, requests: list[Request], width: int) -> Prefix:
        device = self.model.device
        ids = np.zeros((len(requests), width), np.int64)
        for i, r in enumerate(requests):
            ids[i, : len(r.prompt_ids) - 1] = r.prompt_ids[:-1]
        prefix = Prefix(self.model.n_blocks)
        self.hooks.assign([self.variant_number[r.variant.name] for r in requests])
        self.dirty = True
        with torch.inference_mode(), ExitStack() as stack:
            steps = torch.full((len(requests), width), -1, dtype=torch.int64, device=device)
            keys = torch.tensor([r.key for r in requests], device=device)
            # what is random in the prompt is keyed by where in the prompt it is
            self.hooks.at(steps, keys)
            stack.enter_context(attending(self.model))
            stack.enter_context(self.hooks)
            like = torch.zeros((), dtype=self.model.dtype, device=device)
            self.model.anatomy.base(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=causal_masks(self.masks, len(requests), width, like),
                position_ids=torch.arange(width, device=device).expand(len(requests), width),
                past_key_values=prefix,
                use_cache=True,
            )
        return prefix

    def _spread(self, free: int) -> None:
        """No request waits: rows' open tasks go to free slots, so the last rows end sooner."""
        for slot in range(len(self.rows)):
            row = self.rows[slot]
            tasks = row.split(int(self.step[slot])) if free > 0 else []
            self.limit[slot] = row.limit
            for task in sorted(tasks, key=lambda t: -t.cut):
                if free <= 0 or not self._fits(row, task):
                    row.tasks.append(task)
                    continue
                self._copy(slot, len(self.rows), task.cut)
                twin = Row(row.request, row.ids, row.max_tokens, task)
                twin.enter(task)
                self.rows.append(twin)
                self._enter(len(self.rows) - 1)
                free -= 1

    @staticmethod
    def _fits(row: Row, task: Task) -> bool:
        return task.start < row.max_tokens

    def _copy(self, source: int, target: int, cut: int) -> None:
        columns = max(int(self.prompt[source]) + cut - 1, 0)
        with torch.inference_mode():
            self.cache.copy(source, target, columns)
        for table in (self.tokens, self.logprob, self.entropy, self.forced):
            table[target, :cut] = table[source, :cut]

    def _enter(self, slot: int) -> None:
        """Brings the tables in line with the task that the row in `slot` has just begun."""
        row = self.rows[slot]
        task, prompt = row.task, row.request.prompt_ids
        self.prompt[slot] = len(prompt)
        self.step[slot] = task.cut
        self.last[slot] = self.tokens[slot, task.cut - 1] if task.cut else prompt[-1]
        self.own[slot] = task.start
        self.limit[slot] = row.limit
        self.thinks[slot] = row.thinking
        self.noise[slot] = row.request.key
        self.dirty = True

    # ---------------------------------------------------------------- device passes

    def _stride(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Some passes over all rows: tokens, log-probabilities, entropies, finite; each [n, k]."""
        n = len(self.rows)
        device = self.model.device
        head = self.model.max_positions - int((self.prompt[:n] + self.step[:n]).max())
        passes = max(1, min(self.stride, head))
        self._widen(int(self.step[:n].max()) + passes)
        used = int((self.prompt[:n] + self.step[:n]).max())
        if self.dirty:
            self.hooks.assign([self.variant_number[r.request.variant.name] for r in self.rows])
            place = np.stack([self.last[:n], self.prompt[:n] + self.step[:n] - 1, self.step[:n]])
            self._last, self._position, self._index = torch.from_numpy(place).to(device)
            self._keys = torch.from_numpy(self.noise[:n].copy()).to(device)
            self.dirty = False
        script = self._script(n, passes)
        out = []
        with torch.inference_mode(), ExitStack() as stack:
            self.cache.reserve(used + passes - 1)
            layout = self.cache.layout if self.maskless is not None else None
            stack.enter_context(attending(self.model, layout))
            stack.enter_context(self.hooks)  # before `fused`, which looks for hooks
            stack.enter_context(fused(self.model, self.short_ways))
            for k in range(passes):
                out.append(self._pass(used + k, None if script is None else script[:, k]))
            tokens = torch.stack([o[0] for o in out], 1).cpu().numpy()
            numbers = torch.stack([torch.stack(o[1:], 1) for o in out], 1).cpu().numpy()
        return tokens, numbers[..., 0], numbers[..., 1], np.isfinite(numbers[..., 2])

    def _pass(self, used: int, script: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Reads one token a row and chooses the next."""
        position = self._position
        self.cache.layout.aim(position, used)
        masks = self.maskless
        if masks is None:
            gap = position[:, None] - torch.arange(used, device=position.device)
            gap = gap[:, None, None, :]
            masks = self.masks.build(gap >= 0, gap, self.model.dtype)
        self.hooks.at((self._index - 1)[:, None], self._keys)
        logits = self.model.hf(
            input_ids=self._last[:, None],
            attention_mask=masks,
            position_ids=position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        logits = logits.to(self._last.device, torch.float32)
        logp, entropy, norm = measure(logits)
        token = choose(logits, self.sampling, self._keys, self._index)
        if script is not None:
            token = torch.where(script >= 0, script, token)
        logprob = logp.gather(1, token[:, None])[:, 0]
        self._last, self._position, self._index = token, position + 1, self._index + 1
        return token, logprob, entropy, norm

    def _script(self, n: int, passes: int) -> torch.Tensor | None:
        """Tokens the engine writes in this stride, -1 where the model chooses: [n, passes]."""
        written = np.flatnonzero(self.step[:n] < self.own[:n])
        if not written.size:
            return None
        script = np.full((n, passes), -1, np.int64)
        for slot in written:
            task = self.rows[slot].task
            rest = task.script[int(self.step[slot]) - task.cut :][:passes]
            script[slot, : len(rest)] = rest
        return torch.from_numpy(script).to(self.model.device)

    def _widen(self, columns: int) -> None:
        have = self.tokens.shape[1]
        if columns <= have:
            return
        more = ((0, 0), (0, max(columns - have, have // 2)))
        self.tokens = np.pad(self.tokens, more)
        self.logprob = np.pad(self.logprob, more, constant_values=np.nan)
        self.entropy = np.pad(self.entropy, more, constant_values=np.nan)
        self.forced = np.pad(self.forced, more)

    # ---------------------------------------------------------------- what came out

    def _take(
        self, tokens: np.ndarray, logprob: np.ndarray, entropy: np.ndarray, finite: np.ndarray
    ) -> tuple[list[Chain], NonFiniteError | None]:
        """Writes the stride into the tables and deals with every row where something happened."""
        n, passes = tokens.shape
        slots = np.arange(n)[:, None]
        index = self.step[:n, None] + np.arange(passes)
        forced = index < self.own[:n, None]
        self.tokens[slots, index] = tokens
        self.logprob[slots, index] = np.where(forced, np.nan, logprob)
        self.entropy[slots, index] = np.where(forced, np.nan, entropy)
        self.forced[slots, index] = forced

        ended = self._ends(slots, index, tokens) & self.thinks[:n, None] & ~forced
        stopped = np.isin(tokens, self.stop_ids) & ~forced
        event = ended | stopped | (index + 1 >= self.limit[:n, None]) | ~finite
        if self.stop_on_loop:
            event |= ((index + 1) % LOOP_EVERY == 0) & ~forced
        self.step[:n] += passes
        self.last[:n] = tokens[:, -1]
        self.made += n * passes
        chains: list[Chain] = []
        broken: NonFiniteError | None = None
        gone: list[int] = []
        for slot in np.flatnonzero(event.any(1)).tolist():
            for k in np.flatnonzero(event[slot]).tolist():
                count = int(index[slot, k]) + 1
                if not finite[slot, k]:
                    broken = broken or _non_finite(self.rows[slot], count - 1)
                    break
                happened = self._event(
                    slot, count, bool(ended[slot, k]), bool(stopped[slot, k]), chains
                )
                if happened == "nothing":
                    continue
                self.made -= passes - 1 - k
                if happened == "done":
                    gone.append(slot)
                elif happened == "on" and k + 1 < passes:  # throw away what came after
                    self.step[slot], self.last[slot] = count, tokens[slot, k]
                    self.dirty = True
                break
        self._drop(gone)
        return chains, broken

    def _ends(self, slots: np.ndarray, index: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Where a token completes the end of thinking."""
        ends = tokens == self.end_ids[-1]
        if len(self.end_ids) > 1 and ends.any():
            own = self.own[: len(tokens), None]
            for j, part in enumerate(reversed(self.end_ids[:-1]), start=1):
                at = index - j
                ends &= (at >= own) & (self.tokens[slots, np.maximum(at, 0)] == part)
        return ends

    def _event(
        self, slot: int, count: int, ended: bool, stopped: bool, chains: list[Chain]
    ) -> Literal["nothing", "on", "next", "done"]:
        """Something may have happened at token `count` - 1 of a row.

        "on": it goes on into its answer; "next": another task of its request began in the slot;
        "done": the slot is free.
        """
        row = self.rows[slot]
        record = self._record(slot)
        layer_map = self.model.layer_map

        def cut_short(
            stop: int, budgets: tuple[Budget, ...], how: Finish, end: ThinkingFinish
        ) -> None:
            chains.extend(
                finish_without_answer(row, record, count, stop, budgets, how, end, layer_map)
            )

        if not row.thinking:
            if stopped:
                how: Finish = "stop"
            elif count >= row.limit:
                how = "positions" if row.limited_by_positions else "cut"
            elif self._loops(self.tokens[slot, row.task.start : count]):
                how = "looped"
            else:
                return "nothing"
            chains.extend(finish_answer(row, record, count, how, layer_map))
        elif ended:
            n = count - len(self.end_ids)
            here = row.thinking_ended(n)
            if here and count < row.max_tokens:
                row.answer_here(n, here)
                self.own[slot], self.limit[slot] = count, row.limit
                self.thinks[slot] = False
                return "on"
            cut_short(n, here, "positions", "end")
        elif stopped:  # the model ended everything inside its thinking
            inside = row.thinking_stopped(count - 1)
            cut_short(count - 1, inside, "stop", "end")
        elif count >= row.limit:
            stranded = row.thinking_cut(count)
            cut_short(count, stranded, "positions", "forced")
        elif self._loops(self.tokens[slot, :count]):
            row.thinking_looped(count)
        else:
            return "nothing"
        return "next" if self._next(slot, chains) else "done"

    def _record(self, slot: int) -> Record:
        return Record(self.tokens[slot], self.logprob[slot], self.entropy[slot], self.forced[slot])

    def _loops(self, ids: np.ndarray) -> bool:
        return self.stop_on_loop and len(ids) > 0 and tail_period(ids) is not None

    def _next(self, slot: int, chains: list[Chain]) -> bool:
        """Begins the row's next task in its slot; False when it has none left."""
        row = self.rows[slot]
        while (task := row.next_task()) is not None:
            row.enter(task)
            if row.fits:
                self._enter(slot)
                return True
            chains.extend(
                finish_without_answer(
                    row,
                    self._record(slot),
                    task.cut,
                    task.cut,
                    task.budgets,
                    "positions",
                    task.thinking_finish,
                    self.model.layer_map,
                )
            )
        return False

    def _drop(self, gone: list[int]) -> None:
        """Frees slots; the last rows move into the holes, so that rows stay dense."""
        for slot in sorted(gone, reverse=True):
            row = self.rows.pop()
            last = len(self.rows)
            if slot != last:
                self._copy(last, slot, int(self.step[last]))
                self.rows[slot] = row
                for table in (
                    self.step,
                    self.prompt,
                    self.limit,
                    self.own,
                    self.last,
                    self.thinks,
                    self.noise,
                ):
                    table[slot] = table[last]
            self.dirty = True


def _non_finite(row: Row, step: int) -> NonFiniteError:
    r = row.request
    return NonFiniteError(
        f"A logit is not a finite number: variant {r.variant.name!r}, problem {r.problem!r}, "
        f"sample {r.sample}, step {step}. Chains finished before are kept; leave this variant "
        "out, or load the model in float32."
    )


def _most_columns(model: ReasoningModel, request: Request) -> int:
    closing = len(model.delimiter_ids.closing)
    longest = max(b.thinking + closing + b.answer for b in request.budgets)
    return min(len(request.prompt_ids) + longest, model.max_positions)


def _default_slots(model: ReasoningModel, columns: int) -> int:
    """As many rows as are usual on the device and fit into half of its free memory."""
    config = model.anatomy.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * model.n_blocks * heads * width * columns * model.dtype.itemsize
    usual = CPU_SLOTS
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if model.device.type == "cuda":
        usual, free = CUDA_SLOTS, torch.cuda.mem_get_info(model.device)[0]
    fit = max(1, int(free // 2 // row))
    if fit < usual:
        warnings.warn(
            f"{usual} rows of {columns} tokens do not fit into memory: decoding {fit} at a time.",
            stacklevel=4,
        )
    return min(usual, fit)
