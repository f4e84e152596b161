"""Another order of a model's blocks: some left out, some twice, some in another place.

`with_blocks` copies a Hugging Face model with the blocks at given positions, in a given order, and
adapts its configuration. `verify` rebuilds the model from the configuration alone, without weights,
and compares the two, shapes and settings block by block. An architecture where they differ is
refused rather than run or saved wrong.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.errors import UserError
from interp.model.holding import holding, unguarded
from interp.model.loading import refusing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from interp.model.reasoning_model import ReasoningModel

# lists whose values are block indices
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "hybrid_layer_ids")
FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers")  # so many blocks are no mixtures
PERIOD = ("period", "offset")
NOT_PER_BLOCK = ("architectures", "token", "keys_to_ignore", "multipliers", *INDEX_LISTS)


def with_blocks(
    model: ReasoningModel, kept: list[int], share: bool, *, apart: bool = False
) -> PreTrainedModel:
    """Copy the Hugging Face model with the blocks at positions `kept`, not yet verified.

    Blocks that are left out are never copied: the list of blocks is put into deepcopy's memo first.
    `layer_idx` is renumbered, or a cache would read its length from a block that does not exist.

    Args:
        model: the model; it is not changed.
        kept: positions of the blocks of the copy, in order. One that comes again is a module of its
            own each time.
        share: whether the copy uses the same weight tensors as the original.
        apart: whether a block that comes again has weight tensors of its own there, which files
            need.

    Returns:
        The copy.

    Raises:
        UserError: blocks come again or in another order, and blocks share modules with others.
    """
    hf = model.hf
    shared = getattr(hf.config.get_text_config(), "hybrid_layer_ids", None) or []
    if shared and any(b <= a for a, b in pairwise(kept)):
        raise UserError(
            f"{type(hf).__name__}: blocks share modules with others (hybrid_layer_ids), so none "
            "can run again or in another place. Only leaving blocks out is supported."
        )
    holder = hf.get_submodule(block_path(model))
    memo: dict[int, Any] = {}
    with holding(model):  # no hook of another thread is copied
        copy.deepcopy(hf.config, memo)  # one for all blocks
        bare = dict(memo)
        if share:
            memo |= {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
        again = dict(bare if apart or not share else memo)
        seen: set[int] = set()
        blocks = nn.ModuleList()
        for i in kept:  # the memo gives a block that was copied before, not another copy
            blocks.append(copy.deepcopy(model.blocks[i], dict(again) if i in seen else memo))
            seen.add(i)
        memo[id(holder)] = blocks
        made = copy.deepcopy(hf, memo | unguarded(model))
    for index, block in enumerate(blocks):
        for module in block.modules():
            for name in ("layer_idx", "layer_id"):
                if getattr(module, name, None) == kept[index]:  # a module shared by blocks has -1
                    setattr(module, name, index)
    for module in made.modules():
        if hasattr(module, "first_kv_shared_layer_idx"):  # Gemma 4: none, as `shorten` checks
            setattr(module, "first_kv_shared_layer_idx", len(kept))  # noqa: B010
    config = made.config.get_text_config()
    _drop_adapters(made, shared, kept)
    shorten(config, kept, model.n_blocks)
    made.config.use_cache = config.use_cache = True
    if getattr(made, "generation_config", None) is not None:
        made.generation_config.use_cache = True
    return made


def _drop_adapters(pruned: nn.Module, hybrid: list[int], kept: list[int]) -> None:
    """Remove the adapters of removed blocks from the modules that blocks share (Zamba2).

    Args:
        pruned: the copy without the blocks; changed in place.
        hybrid: positions, before, of the blocks that use the shared modules.
        kept: positions of the blocks that stay, in order.
    """
    stay = [i for i, block in enumerate(hybrid) if block in kept]
    for module in pruned.modules():
        if not hasattr(module, "num_fwd_mem_blocks"):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ModuleList) and name.endswith("_adapter_list"):
                setattr(module, name, nn.ModuleList(child[i] for i in stay if i < len(child)))
        own: Any = module
        own.num_fwd_mem_blocks = len(stay)
        own.layer_dic = {kept.index(hybrid[i]): new for new, i in enumerate(stay)}


def block_path(model: ReasoningModel) -> str:
    """The module path of the list of blocks, such as "model.layers".

    Args:
        model: the model.

    Returns:
        The path.

    Raises:
        UserError: the blocks are not in a ModuleList.
    """
    for path, module in model.hf.named_modules():
        if isinstance(module, nn.ModuleList) and list(module) == model.blocks:
            return path
    raise UserError(f"{type(model.hf).__name__} keeps its blocks in no ModuleList: not supported.")


def shorten(config: Any, kept: list[int], n_blocks: int) -> None:
    """Adapt a configuration of `n_blocks` blocks to the blocks at positions `kept`, in place.

    Lists with one entry per block get those of the blocks at `kept` (not the first entries).
    Lists of block indices are renumbered. A rule by period (a mixture of experts in every k-th
    block)
    becomes such a list, because it would now name other blocks, or a rule by another period.

    Args:
        config: the text configuration.
        kept: positions of the blocks that stay, in order.
        n_blocks: the number of blocks before.

    Raises:
        UserError: blocks share keys and values with other blocks, or no period describes the
            blocks that stay.
    """
    if getattr(config, "num_kv_shared_layers", 0):
        raise UserError(
            f"{type(config).__name__}: blocks share keys and values with others "
            "(num_kv_shared_layers), and the others need them. Pruning this architecture is not "
            "supported."
        )
    for name, value in list(vars(config).items()):
        if any(word in name for word in NOT_PER_BLOCK):
            continue
        if isinstance(value, (list, tuple)) and len(value) == n_blocks:
            setattr(config, name, type(value)(value[i] for i in kept))
    _renumber_experts(config, kept)
    for name in INDEX_LISTS:
        listed = getattr(config, name, None)
        if listed:
            setattr(config, name, [new for new, old in enumerate(kept) if old in listed])
    _refit_periods(config, kept)
    spec = getattr(config, "_heterogeneity_spec", None)  # settings of single blocks (Gemma 4)
    config.num_hidden_layers = len(kept)
    if spec is not None:
        theirs = spec.per_layer_overrides
        config.per_layer_config = None
        config.per_layer_config = {
            new: theirs[old] for new, old in enumerate(kept) if old in theirs
        } or None


def _refit_periods(config: Any, kept: list[int]) -> None:
    """Find the rules by period that describe the blocks that stay (Jamba: no list may say it).

    Args:
        config: the text configuration; changed in place.
        kept: positions of the blocks that stay, in order.

    Raises:
        UserError: no period describes them.
    """
    for kind in ("attn", "expert"):
        period, offset = (getattr(config, f"{kind}_layer_{end}", None) for end in PERIOD)
        if not period or offset is None or "layers_block_type" in vars(config):
            continue
        wanted = [old % period == offset for old in kept]
        fits = [
            (p, o)
            for p in (period, *range(1, len(kept) + 2))
            for o in ((offset, *range(p)) if p == period else range(p))
            if [new % p == o for new in range(len(kept))] == wanted
        ]
        if not fits:
            raise UserError(
                f"{type(config).__name__} says by a period which blocks have "
                f"{'attention' if kind == 'attn' else 'experts'} ({kind}_layer_period), and no "
                f"period describes the blocks that would be left: positions "
                f"{[new for new, has in enumerate(wanted) if has]} of {len(kept)}. Remove others, "
                "or run the plan live."
            )
        for end, value in zip(PERIOD, fits[0], strict=True):
            setattr(config, f"{kind}_layer_{end}", value)


def _renumber_experts(config: Any, kept: list[int]) -> None:
    """Adapt the rules that say by index which blocks are mixtures of experts."""
    step = getattr(config, "decoder_sparse_step", 1) or 1
    if step > 1:
        named = set(getattr(config, "mlp_only_layers", None) or ())
        config.mlp_only_layers = sorted(named | {i for i in kept if (i + 1) % step != 0})
        config.decoder_sparse_step = 1
    for name in FIRST_DENSE:
        if isinstance(first := getattr(config, name, None), int):
            setattr(config, name, sum(i < first for i in kept))
    if isinstance(start := getattr(config, "moe_layer_start_index", None), int):  # Ernie 4.5
        stop = config.moe_layer_end_index
        config.moe_layer_start_index = sum(i < start for i in kept)
        config.moe_layer_end_index = sum(i <= stop for i in kept) - 1


def verify(
    hf: PreTrainedModel,
    name: str,
    doing: str = "saved without these blocks",
    way_on: str = "Remove others, or run the plan live.",
) -> None:
    """Refuse unless the configuration alone rebuilds what surgery made.

    Args:
        hf: the model that surgery made.
        name: what the error message calls it.
        doing: what it cannot be.
        way_on: what to do instead.

    Raises:
        UserError: shapes or settings differ, or the configuration is refused.
    """
    what = f"{name} ({type(hf).__name__}) cannot be {doing}"
    with refusing(what, way_on), torch.device("meta"):
        read = type(hf.config).from_dict(hf.config.to_dict())  # as from config.json
        rebuilt: Any = type(hf)(read)
    wanted = {k: tuple(v.shape) for k, v in rebuilt.state_dict().items()}
    made = {k: tuple(v.shape) for k, v in hf.state_dict().items()}
    differing = sorted(k for k in wanted.keys() | made.keys() if wanted.get(k) != made.get(k))
    theirs = dict(rebuilt.named_modules())
    for path, module in hf.named_modules():
        if path in theirs:
            a, b = _settings(module), _settings(theirs[path])
            differing += [f"{path}.{k}" for k in sorted(a.keys() & b.keys()) if a[k] != b[k]]
    if differing:
        raise UserError(
            f"{what}: its configuration would rebuild something else "
            f"({', '.join(differing[:3])}). {way_on}"
        )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain settings of a module that depend on its position (window, type, index, scale)."""
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if (value is None or isinstance(value, plain))
        and not name.startswith("_")
        and name not in ("training", "name_or_path", "gradient_checkpointing")
    }
