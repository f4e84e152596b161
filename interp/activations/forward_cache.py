"""One forward pass, kept under the names of TransformerLens.

    cache = model.run_with_cache("use 3 4 to make 7", names=["blocks.3.hook_resid_post"])
    cache["blocks.3.hook_resid_post"]        # or cache["resid_post", 3]: [B, T, D]

| name | what it is | shape |
|---|---|---|
| `hook_embed` | the input embedding's output | [B, T, D] |
| `blocks.l.hook_resid_pre`, `hook_resid_post` | the stream entering, leaving block l | [B, T, D] |
| `blocks.l.hook_attn_out`, `hook_mlp_out` | what attention and the MLP add to it | [B, T, D] |
| `blocks.l.hook_resid_mid` | resid_pre + attn_out | [B, T, D] |
| `blocks.l.attn.hook_z` | outputs of the heads before the output projection | [B, T, H, d] |
| `blocks.l.attn.hook_pattern` | attention of each query to each key | [B, H, T, T] |
| `ln_final.hook_out` | the stream after the final norm | [B, T, D] |
| `unembed.hook_out` | logits, with the model's scales and soft caps, float32 | [B, T, V] |

l is the DENSE index, whatever was removed. A block that the variant skips has resid_pre and
resid_post (the same numbers), but no parts. Only what is asked for is kept, on the CPU, in the
model's dtype; blocks behind the last one that is needed are not computed. Rows of several texts are
padded on the right, where the numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from interp.chains.chain import Chain
from interp.chains.noise import noise_key
from interp.errors import UserError
from interp.interventions.hooks import bypass, running
from interp.interventions.interventions import Skip, VariantLike, dense
from interp.interventions.programs import plain_steps
from interp.interventions.timeline import Timeline, site
from interp.model.attention import weighing
from interp.model.holding import holding
from interp.model.named_cache import NamedCache, check_name
from interp.model.readout import readout
from interp.model.reasoning_model import Question, ReasoningModel
from interp.plumbing.arguments import checked

EMBED, FINAL, LOGITS = "hook_embed", "ln_final.hook_out", "unembed.hook_out"
STREAMS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
PARTS = {"hook_attn_out": "attention", "hook_mlp_out": "mlp"}
Z, PATTERN = "attn.hook_z", "attn.hook_pattern"
MAX_BYTES = 2 * 2**30
#: One text to read: a question, token ids, or a chain (its prompt and all but its last token).
Readable = Chain | Question | Sequence[int]
Wanted = Sequence[str] | Callable[[str], bool]


@checked
@torch.no_grad()
def run_with_cache(
    model: ReasoningModel,
    prompt: Readable | Sequence[Readable],
    variant: VariantLike | None = None,
    names: Wanted | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> NamedCache:
    """Run one forward pass and keep activations under the names of TransformerLens.

    Args:
        model: the model.
        prompt: a question (its prompt is read, as `generate` does), token ids, or a chain (the
            passes that made it, so all but its last token); or several of these, a row each.
        variant: the variant to run; None for the model as it is. Windows lie where they lay when a
            chain was decoded; a prompt is step -1.
        names: the names to keep, or a predicate on names. Default: all but attention patterns.
        max_bytes: most bytes that may be kept.

    Returns:
        The tensors by name.

    Raises:
        UserError: a name is unknown, a text cannot be read, or the tensors would take too much
            memory.
    """
    texts = _texts(prompt)
    rows = [read_ids(model, one, i) for i, one in enumerate(texts)]
    lengths = tuple(map(len, rows))
    tokens = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    run = variant or dense
    known = names_of(model, run)
    wanted = _chosen(known, names)
    _check_size(model, wanted, tokens.shape, max_bytes)
    lines = [
        Timeline.of(one) if isinstance(one, Chain) else Timeline(len(ids), np.zeros(0, np.int64))
        for one, ids in zip(texts, rows, strict=True)
    ]
    keys = [
        noise_key(one.seed, one.problem, one.sample) if isinstance(one, Chain) else i
        for i, one in enumerate(texts)
    ]
    windows = [s.window for s in run.interventions() if s.window is not None]
    reach = max((w.reach for w in windows), default=0)
    device = model.device
    at = site(lines, 0, max(lengths), keys=torch.tensor(keys, device=device), reach=reach)
    kept: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(holding(model))
        if any(name.endswith(PATTERN) for name in wanted):
            stack.enter_context(weighing(model))
        stack.enter_context(running(model, run, len(rows), at))
        stack.enter_context(bypass(model, range(_depth(model, wanted), model.n_blocks)))
        stack.enter_context(_keeping(model, wanted, kept))
        final = model.anatomy.base(input_ids=tokens.to(device), use_cache=False)[0]
        if FINAL in wanted:
            kept[FINAL] = final.cpu()
        if LOGITS in wanted:
            kept[LOGITS] = readout(model, final).cpu()
    return NamedCache(
        kept={name: kept[name] for name in wanted},
        names=known,
        tokens=tokens,
        lengths=lengths,
        variant=run.name,
        layer_map=model.layer_map,
    )


ReasoningModel.cacher = run_with_cache


def names_of(model: ReasoningModel, variant: VariantLike = dense) -> tuple[str, ...]:
    """Every name that a model has under a variant.

    Args:
        model: the model.
        variant: the variant; blocks that it skips at all steps have no parts.

    Returns:
        The names, in the order of the pass.
    """
    anatomy = model.anatomy
    gone = {
        s.block
        for s in plain_steps(model, variant)
        if isinstance(s, Skip) and s.part == "block" and s.window is None
    }
    found = [EMBED]
    for i, block in enumerate(model.layer_map):
        own = ["hook_resid_pre", "hook_resid_post"]
        attention, mlp = anatomy.adds_attention[i], anatomy.adds_mlp[i]
        if block not in gone:
            own += ["hook_attn_out"] * (attention is not None) + ["hook_mlp_out"] * (
                mlp is not None
            )
            if attention is not None and mlp is not None:
                own.append("hook_resid_mid")
            if _has_heads(model, i):
                own += [Z, PATTERN]
        found += [f"blocks.{block}.{name}" for name in own]
    return (*found, FINAL, LOGITS)


def _has_heads(model: ReasoningModel, index: int) -> bool:
    try:
        model.anatomy.output_projection(index)
    except (UserError, AttributeError):
        return False
    return True


def _texts(prompt: Any) -> list[Any]:
    """The texts to read; a list of numbers or of messages is one text."""
    if isinstance(prompt, (str, Chain)):
        return [prompt]
    several = list(prompt)
    if not several:
        raise UserError("run_with_cache: no text was given; expected at least one.")
    first = several[0]
    return [several] if isinstance(first, (Mapping, int, np.integer)) else several


def read_ids(model: ReasoningModel, text: Readable, number: int = 0) -> list[int]:
    """The token ids that a pass over a text reads.

    Args:
        model: the model.
        text: a question (its prompt), token ids, or a chain (all but its last token).
        number: number of the text, for the error.

    Returns:
        Token ids.

    Raises:
        UserError: there are none or too many, or one is not in the vocabulary.
    """
    if isinstance(text, Chain):
        if not len(text.prompt_ids) or not text.n_tokens:
            raise UserError(f"Text {number} is a chain without a prompt or without tokens.")
        ids = [*text.prompt_ids.tolist(), *text.ids[:-1].tolist()]
    elif isinstance(text, str) or isinstance(next(iter(text), None), Mapping):
        ids = model.prompt_ids(cast("Question", text))
    else:
        ids = [int(i) for i in text]  # type: ignore[call-overload]
    if not 0 < len(ids) <= model.max_positions:
        raise UserError(
            f"Text {number} has {len(ids)} tokens; expected 1 to {model.max_positions}."
        )
    if not all(0 <= i < model.vocab_size for i in ids):
        raise UserError(
            f"Text {number} has a token id outside the vocabulary of {model.name} "
            f"(0..{model.vocab_size - 1})."
        )
    return ids


def _chosen(known: tuple[str, ...], names: Wanted | None) -> list[str]:
    if names is None:
        return [name for name in known if not name.endswith(PATTERN)]
    if callable(names):
        found = [name for name in known if names(name)]
        if not found:
            raise UserError("run_with_cache: the predicate chose no name; see NamedCache.names.")
        return found
    for name in names:
        check_name(name, known)
    return [name for name in known if name in set(names)]


def _check_size(
    model: ReasoningModel, wanted: Sequence[str], shape: Sequence[int], most: int
) -> None:
    rows, width = shape
    heads = model.anatomy.config.num_attention_heads if any(".attn." in n for n in wanted) else 0
    size = 0
    for name in wanted:
        per_token = model.d_model * model.dtype.itemsize
        if name.endswith(PATTERN):
            per_token = heads * width * model.dtype.itemsize
        elif name == LOGITS:
            per_token = model.vocab_size * 4
        size += rows * width * per_token
    if size > most:
        raise UserError(
            f"run_with_cache: {len(wanted)} names of {rows} x {width} tokens take "
            f"{size / 2**30:.2f} GiB; allowed are {most / 2**30:.2f}. Name fewer, or raise "
            "max_bytes."
        )


def _depth(model: ReasoningModel, wanted: Sequence[str]) -> int:
    """How many blocks must be computed."""
    if FINAL in wanted or LOGITS in wanted:
        return model.n_blocks
    blocks = [int(name.split(".")[1]) for name in wanted if name.startswith("blocks.")]
    return max((model.layer_map.index(block) + 1 for block in blocks), default=0)


@contextmanager
def _keeping(
    model: ReasoningModel, wanted: Sequence[str], kept: dict[str, Tensor]
) -> Iterator[None]:
    """While open, hooks keep what is asked for. They run after all hooks that are open already."""
    by_block: dict[int, set[str]] = {}
    for name in wanted:
        if name.startswith("blocks."):
            _, block, own = name.split(".", 2)
            by_block.setdefault(int(block), set()).add(own)
    with ExitStack() as hooks:

        def watch(module: nn.Module, hook: Callable[..., None]) -> None:
            handle = module.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)

        if EMBED in wanted:
            embedding: Any = model.hf.get_input_embeddings()
            watch(embedding, _output(lambda out: kept.__setitem__(EMBED, out.cpu())))
        for block, own in by_block.items():
            _keep_block(model, block, own, watch, hooks, kept)
        yield


def _keep_block(
    model: ReasoningModel,
    block: int,
    own: set[str],
    watch: Callable[..., None],
    hooks: ExitStack,
    kept: dict[str, Tensor],
) -> None:
    anatomy, index = model.anatomy, model.layer_map.index(block)
    parts: dict[str, Tensor] = {}

    def put(name: str, value: Tensor) -> None:
        kept[f"blocks.{block}.{name}"] = value.detach().cpu()

    for name, part in PARTS.items():
        if name in own or "hook_resid_mid" in own:

            def keep_part(value: Tensor, name: str = name) -> None:
                parts[name] = value
                if name in own:
                    put(name, value)

            watch(anatomy.adds(index, part), _output(keep_part, like_input=True))
    if Z in own:
        projection, n_heads = anatomy.output_projection(index), anatomy.n_heads

        def keep_z(_: nn.Module, args: tuple[Any, ...]) -> None:
            put(Z, args[0].unflatten(-1, (n_heads, -1)))  # [B, T, H * d] -> [B, T, H, d]

        hooks.callback(projection.register_forward_pre_hook(keep_z).remove)
    if PATTERN in own:

        def keep_pattern(_: nn.Module, __: Any, ___: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if weights is None:
                raise UserError(
                    f"{type(model.hf).__name__} does not return attention weights, so "
                    f"blocks.{block}.{PATTERN} cannot be read here; see ps.heads.HeadLens."
                )
            put(PATTERN, weights)

        watch(anatomy.sublayer(index, "attention"), keep_pattern)

    def keep_streams(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        if "hook_resid_pre" in own:
            put("hook_resid_pre", before)
        if "hook_resid_post" in own:
            put("hook_resid_post", after)
        if "hook_resid_mid" in own:
            put("hook_resid_mid", before + parts["hook_attn_out"].to(before.device))
        parts.clear()

    if own & set(STREAMS):
        watch(anatomy.blocks[index], keep_streams)


def _output(keep: Callable[[Tensor], None], *, like_input: bool = False) -> Callable[..., None]:
    """A forward hook that hands on the output; `like_input` gives [B * T, D] back its shape."""

    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        given = args[0] if args else kwargs.get("hidden_states")
        if like_input and given is not None and value.ndim == 2:
            value = value.view(given.shape)
        keep(value.detach())

    return hook
