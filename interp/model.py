"""A reasoning model: a causal language model with its tokenizer, blocks and thinking delimiters.

`ReasoningModel.load` takes the bundled reasoner ("testbed"), a Hub name, a checkpoint folder or a
live Hugging Face model, and finds in it what the rest of the package works on: the list of
decoder blocks, their attention and MLP sublayers, the final norm and the head. Nothing is
wrapped or replaced: `model.hf` is the model as Hugging Face built it.

`layer_map[i]` is the dense index of block i: `range(L)` for a dense model, read from
`pruning.json` for a checkpoint with blocks removed.

Caveats: weights are read from safetensors only; a model's own code runs only with
`trust_remote_code=True`. State-space, linear-attention and encoder-decoder models are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from interp.anatomy import Anatomy, dissect
from interp.chains import Budget, Chain, Chains
from interp.delimiters import DelimiterIds, Delimiters
from interp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from interp.decode import Sampling
    from interp.interventions import VariantLike

Question = str | Sequence[dict[str, str]]
PRUNING_FILE = "pruning.json"
BUNDLED = "testbed"


class ReasoningModel:
    """A causal LM that thinks between delimiters. Build it with `ReasoningModel.load`."""

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        delimiters: Delimiters | None = None,
        layer_map: Sequence[int] | None = None,
        n_dense: int | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name
        self.anatomy: Anatomy = dissect(hf)
        self.delimiters = delimiters or Delimiters.find(tokenizer)
        self.delimiter_ids: DelimiterIds = self.delimiters.resolve(tokenizer)
        self.layer_map: tuple[int, ...] = _checked_layer_map(layer_map, self.n_blocks)
        self.n_dense = max(n_dense or 0, max(self.layer_map) + 1)  # blocks of the dense model
        hf.eval()

    # ---------------------------------------------------------------- loading

    @classmethod
    def load(
        cls,
        source: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        delimiters: Delimiters | None = None,
        trust_remote_code: bool = False,
        name: str | None = None,
    ) -> ReasoningModel:
        """Load a model by name, folder or from memory.

        source: "testbed" (the bundled reasoner), a folder, a Hub name, or a live model (then
        `tokenizer` is needed). dtype: float32 on the CPU and the checkpoint's own on CUDA unless
        said otherwise. device_map: as in transformers, to spread a model over several devices.
        """
        if isinstance(source, nn.Module):
            if tokenizer is None or isinstance(tokenizer, (str, Path)):
                raise UserError(
                    "A live model needs its live tokenizer: ReasoningModel.load(model, tokenizer)."
                )
            hf = cast("PreTrainedModel", source)
            if device is not None:
                raise UserError("A live model stays where it is: move it yourself, or omit device.")
            label = name or str(getattr(hf.config, "name_or_path", "")) or type(hf).__name__
            return cls(
                hf,
                tokenizer,
                name=label,
                delimiters=delimiters,
            )
        place = _locate(str(source))
        hf, tok = _from_pretrained(
            place, tokenizer, dtype, device, device_map, trust_remote_code, str(source)
        )
        pruning = _side_file(place, PRUNING_FILE) or {}
        return cls(
            hf,
            tok,
            name=name or str(source),
            delimiters=delimiters or _folder_delimiters(place),
            layer_map=pruning.get("layer_map"),
            n_dense=pruning.get("n_blocks"),
        )

    # ---------------------------------------------------------------- anatomy

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder blocks, in order; position i is dense block `layer_map[i]`."""
        return list(self.anatomy.blocks)

    @property
    def final_norm(self) -> nn.Module:
        return self.anatomy.final_norm

    @property
    def head(self) -> nn.Module:
        return self.anatomy.head

    @property
    def n_blocks(self) -> int:
        return len(self.anatomy.blocks)

    @property
    def d_model(self) -> int:
        return int(self.anatomy.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Width of the logits (it may be larger than the tokenizer's vocabulary)."""
        return int(self.anatomy.config.vocab_size)

    @property
    def max_positions(self) -> int:
        return int(getattr(self.anatomy.config, "max_position_embeddings", 0) or 2**31 - 1)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return cast("torch.Tensor", self.hf.get_input_embeddings().weight).device

    @property
    def dtype(self) -> torch.dtype:
        return cast("torch.Tensor", self.hf.get_input_embeddings().weight).dtype

    def index_of(self, block: int) -> int | None:
        """Position of dense block `block` in this model, or None where it was removed.

        An index that the dense model never had is a UserError.
        """
        if block in self.layer_map:
            return self.layer_map.index(block)
        if 0 <= block < self.n_dense:
            return None
        raise UserError(
            f"Block {block} is not there: {self.name} has dense blocks 0..{self.n_dense - 1}."
        )

    # ---------------------------------------------------------------- text

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with no special token added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def prompt_ids(self, question: Question, *, thinking: bool = True) -> list[int]:
        """The chat prompt of a question (a string, or messages with "role" and "content").

        thinking=True ends with the start of thinking; False with an empty thinking already closed
        (what `enable_thinking=False` does in Qwen3's template), so the answer comes next.
        """
        if isinstance(question, str) and not question.strip():
            raise UserError("An empty question: expected some text to answer.")
        turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
        d = self.delimiters
        if getattr(self.tokenizer, "chat_template", None):
            text = str(
                self.tokenizer.apply_chat_template(
                    [dict(t) for t in turns],
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=thinking,
                )
            )
        else:
            text = "\n".join(t["content"] for t in turns) + "\n"
        end = text.rstrip()
        ids = self.encode(text)
        start, stop = self.delimiter_ids.think_start, self.delimiter_ids.think_end
        if thinking:
            return ids if end.endswith(d.think_start) else ids + list(start)
        if end.endswith(d.think_end):
            return ids
        return ids + list(stop) if end.endswith(d.think_start) else ids + list(start) + list(stop)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence: the generation config's and the tokenizer's."""
        config = getattr(self.hf, "generation_config", None)
        ids: set[int] = set()
        found: Any
        for found in (getattr(config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if found is not None:
                ids.update(found if isinstance(found, (list, tuple)) else [found])
        return tuple(sorted(int(i) for i in ids))

    # ---------------------------------------------------------------- identity

    def fingerprint(self) -> str:
        """16 hex digits: the configuration, the layer map and a few numbers of every weight."""
        config = self.hf.config.to_dict()
        for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
            config.pop(volatile, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        digest.update(repr(self.layer_map).encode())
        for key, weight in sorted(self.hf.state_dict().items()):
            flat = weight.detach().reshape(-1)
            few = flat[:: max(1, flat.numel() // 7)][:8].float().cpu()
            digest.update(key.encode() + repr(tuple(weight.shape)).encode())
            digest.update(few.numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        kind = type(self.hf).__name__
        return f"ReasoningModel({self.name!r}, {kind}, {self.n_blocks} blocks of {self.d_model})"

    # ---------------------------------------------------------------- generation

    def generate(
        self,
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
        compiled: bool | None = None,
        thinking: bool = True,
    ) -> Chains:
        """Chains for every prompt x variant x sample x budget, in that order.

        prompts: questions, message lists, or token ids ready made. record: keep what every block
        does to the residual stream (`chain.stream`). stop, stop_on_loop, compiled: see
        `interp.decode.decode`. One seed gives the same chains whatever else is decoded beside
        them (up to ties of float noise).
        """
        from interp.decode import Sampling, decode
        from interp.requests import cross

        requests = cross(
            self,
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
                self,
                requests,
                sampling=sampling or Sampling(),
                slots=slots,
                stop=stop,
                stop_on_loop=stop_on_loop,
                record=record,
                compiled=compiled,
                progress=report,
            )
            chains.extend(found)
        chains.sort(key=lambda c: order[c.problem, c.variant, c.sample, c.budget])
        return Chains(chains, self)


# -------------------------------------------------------------------- reading a checkpoint


def _locate(source: str) -> str:
    """The folder or Hub name that `source` stands for."""
    if source == BUNDLED:
        folder = Path(str(resources.files("testbed"))) / "reasoner"
        if not (folder / "config.json").is_file():
            raise UserError(
                f"The bundled reasoner is not there ({folder}): install the released package, "
                "or train it with `prunescope testbed train`."
            )
        return str(folder)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no config.json: expected a checkpoint folder.")
        if not any(path.glob("*.safetensors")):
            raise UserError(
                f"{path} holds no .safetensors file: weights are read from safetensors only; "
                "save the model again with save_pretrained."
            )
        return str(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise UserError(f"No folder {source!r}: expected a checkpoint folder or a Hub name.")
    return source


def _from_pretrained(
    place: str,
    tokenizer: Any,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    device_map: Any,
    trust_remote_code: bool,
    source: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" and device_map is None else "auto"
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(
                f"{source} is an encoder-decoder: expected a causal (decoder-only) language model."
            )
        if getattr(config.get_text_config(), "attn_logit_softcapping", None):
            options["attn_implementation"] = "eager"  # SDPA has no soft cap
        if isinstance(tokenizer, (str, Path)) or tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(
                str(tokenizer or place), trust_remote_code=trust_remote_code
            )
        hf = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            device_map=device_map,
            **options,
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        hint = ""
        if "/" not in source and not Path(source).exists():
            hint = did_you_mean(source, [BUNDLED, *_checkpoints_here()], "model") + " "
        raise UserError(
            f"Cannot load {source!r}: {hint}{reason} "
            "Expected 'testbed', a checkpoint folder with safetensors, or a Hub name."
        ) from error
    if device_map is None:
        cast("nn.Module", hf).to(where)
    return hf, tokenizer


def _checkpoints_here() -> list[str]:
    return [p.parent.name for p in Path.cwd().glob("*/config.json")]


def _side_file(place: str, filename: str) -> dict[str, Any] | None:
    """A JSON file beside the weights, in a folder or on the Hub; None where there is none."""
    if Path(place).is_dir():
        path = Path(place) / filename
    else:
        from transformers.utils.hub import cached_file

        found = cached_file(place, filename, _raise_exceptions_for_missing_entries=False)
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): write it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected a JSON object.")
    return content


def _folder_delimiters(place: str) -> Delimiters | None:
    content = _side_file(place, "delimiters.json")
    return None if content is None else Delimiters.from_dict(content)


def _checked_layer_map(layer_map: Sequence[int] | None, n_blocks: int) -> tuple[int, ...]:
    if layer_map is None:
        return tuple(range(n_blocks))
    found = tuple(int(i) for i in layer_map)
    if len(found) != n_blocks:
        raise UserError(f"layer_map has {len(found)} entries for {n_blocks} blocks.")
    if any(b <= a for a, b in pairwise(found)) or min(found) < 0:
        raise UserError(f"layer_map {found} must rise strictly from 0 or more.")
    return found


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
