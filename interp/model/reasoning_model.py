"""A reasoning model: a causal language model with its tokenizer, blocks and thinking format.

`ReasoningModel.load` takes the bundled reasoner ("testbed"), a Hub name, a checkpoint folder or a
live Hugging Face model. It locates the decoder blocks, their attention and MLP sublayers, the
final norm and the head. Nothing is wrapped or replaced: `model.hf` is the model as Hugging Face
built it.

`layer_map[i]` is the dense index of block i: `range(L)` for a dense model, read from
`pruning.json` for a checkpoint with blocks removed.

Caveats: weights are read from safetensors and GGUF only; a model's own code runs only with
`trust_remote_code=True`. Encoder-decoder models are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import nn

from interp.chains.chain import Budgets, Chains
from interp.errors import UserError
from interp.model.architecture import Anatomy, dissect
from interp.model.chat import RawPrompt, messages_of
from interp.model.checkpoint_files import (
    Fingerprint,
    checked_layer_map,
    checked_n_dense,
    folder_blocks,
    folder_delimiters,
    locate,
    program_of,
    provenance_of,
)
from interp.model.delimiters import (
    DelimiterIds,
    Delimiters,
    FormatChoice,
    Origin,
    find_format,
    open_mark,
)
from interp.model.loading import load_pretrained, refusing
from interp.model.named_cache import NamedCache
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Question = str | Sequence[Mapping[str, Any]]
# "fast": the decoder's own key/value cache; "generic": Hugging Face's; "auto": fast where it can
DecoderName = Literal["auto", "fast", "generic"]

log = logging.getLogger(__name__)
# how the log says where a thinking format comes from
ORIGINS: dict[Origin, str] = {
    "caller": "as asked for",
    "file": "from delimiters.json",
    "tokenizer": "from the tokenizer's configuration",
    "template": "found in the chat template",
    "vocabulary": "found in the vocabulary",
    "name": "by the model's name",
    "none": "no other format was found; --think-start and --think-end name one",
}


@checked
class ReasoningModel:
    """A causal language model and how it thinks. Build it with `ReasoningModel.load`.

    A model that marks no thinking has the plain format: its whole completion thinks.

    Args:
        hf: the Hugging Face model; put into evaluation mode.
        tokenizer: its tokenizer.
        name: what to call the model.
        delimiters: its thinking format; None takes what the tokenizer declares or shows.
        layer_map: dense index of each block, rising; None for a dense model.
        n_dense: number of blocks of the dense model; None infers it from `layer_map`.

    Attributes:
        decoder: the function that `generate` calls.
        preferred_decoder: the decoder that takes this model where none is named: "auto" is the
            fast one where it can, else the generic one (`interp.decoding.decoder_choice`).
        cacher: the function that `run_with_cache` calls.
        anatomy: the blocks, sublayers, final norm and head.
        delimiter_ids: the thinking format as token ids.
        format_origin: where the thinking format was found.

    Raises:
        UserError: the architecture, the delimiters or the layer map cannot be used.
    """

    #: The function that `generate` calls. The decoder is in a higher layer and may not be imported
    #: here, so `interp.decoding.generate` sets this attribute when it is imported.
    decoder: ClassVar[Callable[..., Chains] | None] = None
    #: The function that `run_with_cache` calls; `interp.activations.forward_cache` sets it.
    cacher: ClassVar[Callable[..., NamedCache] | None] = None

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        delimiters: Delimiters | FormatChoice | None = None,
        layer_map: Sequence[int] | None = None,
        n_dense: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        program: Sequence[int] = (),
        preferred_decoder: DecoderName = "auto",
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name
        self.preferred_decoder: DecoderName = preferred_decoder
        self.anatomy: Anatomy = dissect(hf)
        found: tuple[Delimiters, Origin] = _chosen_format(delimiters, tokenizer)
        self.delimiters: Delimiters = found[0]
        self.format_origin: Origin = found[1]
        self.delimiter_ids: DelimiterIds = self.delimiters.resolve(tokenizer)
        self.layer_map: tuple[int, ...] = checked_layer_map(layer_map, self.n_blocks)
        self.n_dense = checked_n_dense(n_dense, self.layer_map)  # blocks of the dense model
        #: The GGUF file that the weights come from (name, sha256, quantisation); else empty.
        self.provenance: dict[str, Any] = dict(provenance or {})
        #: Of a program of layers: the original model's block that each dense index runs; else ().
        self.program: tuple[int, ...] = tuple(program)
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
        delimiters: Delimiters | FormatChoice | None = None,
        trust_remote_code: bool = False,
        name: str | None = None,
        decoder: DecoderName = "auto",
    ) -> ReasoningModel:
        """Load a model by name or folder, or wrap a live one.

        Args:
            source: "testbed" (the bundled reasoner), a folder, a Hub name, a GGUF file
                (FILE.gguf, FOLDER:FILE.gguf, HUB_NAME:FILE.gguf), or a live model.
            tokenizer: required for a live model; otherwise a tokenizer, or a folder or Hub name to
                read it from (default: `source`).
            dtype: of the weights; default: float32 on the CPU and for GGUF, the checkpoint's own on
                CUDA or with a `device_map`.
            device: where to put the model; default: CUDA if there is a GPU, else the CPU.
            device_map: as in transformers, to spread a model over several devices.
            delimiters: the thinking format; None takes what the checkpoint or the tokenizer
                declares or shows, the plain format if they show none.
            trust_remote_code: whether the model's own code may run.
            name: what to call the model; default: `source`, or the name in a live model's config.
            decoder: "fast", "generic" (Hugging Face's own cache, for any architecture), or "auto"
                for the fast one wherever it can decode the model.

        Returns:
            The model, in evaluation mode.

        Raises:
            UserError: the model cannot be loaded completely, or its architecture is not supported.
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
            own = cls(hf, tokenizer, name=label, delimiters=delimiters, preferred_decoder=decoder)
            return own._said()
        place = locate(str(source))
        hf, tok = load_pretrained(
            place, tokenizer, dtype, device, device_map, trust_remote_code, str(source)
        )
        model = cls.from_parts(hf, tok, place, name or str(source), delimiters)
        model.preferred_decoder = decoder
        return model

    @classmethod
    def from_parts(
        cls,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        place: str,
        name: str,
        delimiters: Delimiters | FormatChoice | None = None,
    ) -> ReasoningModel:
        """Build a model from Hugging Face parts that were read from a folder or Hub name.

        Args:
            hf: the causal language model.
            tokenizer: its tokenizer.
            place: the folder or Hub name; pruning.json and delimiters.json are read from it.
            name: what to call the model.
            delimiters: the thinking format, in the place of what `place` or the tokenizer says.

        Returns:
            The model.

        Raises:
            UserError: a file of `place` is damaged or contradicts the model.
        """
        with refusing(f"Cannot use {name!r}", "Expected a causal model with its own tokenizer."):
            words: Any = tokenizer
            if len(words.get_vocab()) <= len(words.get_added_vocab()):
                # where no file is there, transformers makes an empty one from config.json
                raise UserError("its tokenizer has no words: tokenizer.json is missing.")
            layer_map, n_dense = folder_blocks(place)
            declared = folder_delimiters(place)
            if declared is not None and isinstance(delimiters, FormatChoice):
                delimiters = delimiters.of(declared, tokenizer)
            model = cls(
                hf,
                tokenizer,
                name=name,
                delimiters=delimiters or declared,
                layer_map=layer_map,
                n_dense=n_dense,
                provenance=provenance_of(place),
                program=program_of(place),
            )
            if declared is not None and delimiters is None:
                model.format_origin = "file"
            _ = model.stop_ids  # raises if the ids in generation_config.json are no numbers
        return model._said()

    def around(
        self, hf: Any, *, name: str | None = None, layer_map: Sequence[int] | None = None
    ) -> ReasoningModel:
        """The same model around other weights; all else stays.

        Args:
            hf: the Hugging Face model.
            name: what to call the model. Default: as this one.
            layer_map: dense index of each block. Default: as this one's.

        Returns:
            The model.
        """
        return ReasoningModel(
            hf,
            self.tokenizer,
            name=name or self.name,
            delimiters=self.delimiters,
            layer_map=layer_map or self.layer_map,
            n_dense=self.n_dense,
            provenance=self.provenance,
            program=self.program,
            preferred_decoder=self.preferred_decoder,
        )

    def _said(self) -> ReasoningModel:
        """Logs which thinking format the model has, and returns the model."""
        words, origin = self.delimiters.described, ORIGINS[self.format_origin]
        log.info("%s: thinking format %s, %s.", self.name, words, origin)
        return self

    # ---------------------------------------------------------------- anatomy

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder blocks, in order; position i is dense block `layer_map[i]`."""
        return list(self.anatomy.blocks)

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the head."""
        return self.anatomy.final_norm

    @property
    def head(self) -> nn.Module:
        """The unembedding, which maps the normed stream to logits."""
        return self.anatomy.head

    @property
    def n_blocks(self) -> int:
        """Number of blocks in this model; a pruned model has fewer than `n_dense`."""
        return len(self.anatomy.blocks)

    @property
    def d_model(self) -> int:
        """Width D of the residual stream."""
        return int(self.anatomy.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Width V of the logits; it may be larger than the tokenizer's vocabulary."""
        return int(self.anatomy.config.vocab_size)

    @property
    def max_positions(self) -> int:
        """Longest sequence in tokens, prompt included; 2^31 - 1 where the config names no limit."""
        return int(getattr(self.anatomy.config, "max_position_embeddings", 0) or 2**31 - 1)

    @property
    def device(self) -> torch.device:
        """Device of the input embedding, to which token ids must be moved."""
        return cast("torch.Tensor", self.hf.get_input_embeddings().weight).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the input embedding."""
        return cast("torch.Tensor", self.hf.get_input_embeddings().weight).dtype

    def index_of(self, block: int) -> int | None:
        """Position of a dense block in this model.

        Args:
            block: dense index.

        Returns:
            Its position, or None if the block was removed.

        Raises:
            UserError: the dense model never had such a block.
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
        """Encode text without adding special tokens.

        Args:
            text: any text.

        Returns:
            Token ids.
        """
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode token ids.

        Args:
            ids: token ids.
            skip_special: whether to leave out special tokens.

        Returns:
            The text.

        Raises:
            UserError: a number cannot be a token id.
        """
        try:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))
        except OverflowError:
            raise UserError("text(ids=...): expected token ids, from 0.") from None

    @property
    def lexicon_name(self) -> str:
        """Name of the reflection lexicon that the tokenizer carries; "" for none.

        It is the field `reflection_lexicon` of tokenizer_config.json, which is saved with the
        tokenizer (`interp.diagnosis.reflection_lexicon`).
        """
        return str(getattr(self.tokenizer, "init_kwargs", {}).get("reflection_lexicon", ""))

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template; without one, prompts are plain text."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def prompt_ids(self, question: Question, *, thinking: bool = True) -> list[int]:
        """Encodes the prompt of a question, up to where the model continues.

        A model without a chat template reads the contents of the messages, a line each, after its
        beginning-of-sequence token if its tokenizer adds one.

        Args:
            question: the user's text, messages with "role" and "content" (`interp.model.chat`), or
                a `RawPrompt`, which is read as it is.
            thinking: True ends the prompt with the start of thinking; False with an empty thinking
                that is closed already, so the answer comes next. In the plain format neither is
                added: the template is asked not to think, and what it opens is closed. False adds
                nothing to a `RawPrompt`.

        Returns:
            Token ids.

        Raises:
            UserError: the question is empty or not made of text, or the template refuses it.
        """
        d, ids = self.delimiters, self.delimiter_ids
        if isinstance(question, RawPrompt):
            if not question.strip():
                raise UserError("An empty prompt: expected some text to continue.")
            return [*self._with_bos(self.encode(question)), *(ids.think_start if thinking else ())]
        text = self._prompt_text(messages_of(question), thinking)
        if ids.plain:
            end = open_mark(text)
            return self._encode_prompt(f"{text.rstrip()}\n\n{end}\n\n" if end else text)
        end = text.rstrip()
        prompt = self._encode_prompt(text)
        opened, closed = end.endswith(d.think_start.strip()), end.endswith(d.think_end.strip())
        if thinking:
            return prompt if opened else [*prompt, *ids.think_start]
        if closed:
            return prompt
        return [*prompt, *(() if opened else ids.think_start), *ids.think_end]

    def _prompt_text(self, turns: list[dict[str, Any]], thinking: bool) -> str:
        """Renders messages by the chat template, or a line each without one."""
        if not self.has_chat_template:
            return "\n".join(t["content"] for t in turns) + "\n"
        from interp.model.chat_template import render

        thinks = thinking and not self.delimiters.is_plain
        with refusing(
            f"The chat template of {self.name!r} cannot render the question",
            "Expected a template that takes messages with `role` and `content`.",
        ):
            return render(
                self.tokenizer,
                turns,
                add_generation_prompt=True,
                enable_thinking=thinks,  # Qwen3, SmolLM3, GLM, Gemma, Nemotron
                thinking=thinks,  # DeepSeek V3.1, Granite
            )

    def _encode_prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; a template has written its special tokens itself."""
        ids = self.encode(text)
        return ids if self.has_chat_template else self._with_bos(ids)

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Token ids after the beginning-of-sequence token, if the tokenizer adds one to a text."""
        bos = self.tokenizer.bos_token_id
        if bos is None or ids[:1] == [bos]:
            return ids
        adds = list(self.tokenizer.encode("a"))[:1] == [bos]
        return [int(cast("Any", bos)), *ids] if adds else ids

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end a sequence, from the generation config and the tokenizer."""
        config = getattr(self.hf, "generation_config", None)
        ids: set[int] = set()
        found: Any
        for found in (getattr(config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if found is not None:
                ids.update(found if isinstance(found, (list, tuple)) else [found])
        return tuple(sorted(int(i) for i in ids))

    # ---------------------------------------------------------------- identity

    def fingerprint(self) -> str:
        """A hash of the configuration, the layer map and up to eight numbers of every weight.

        Returns:
            16 hexadecimal digits.
        """
        found = Fingerprint(self.hf.config, self.layer_map)
        for key, weight in sorted(self.hf.state_dict().items()):
            flat = weight.detach().reshape(-1)
            few = flat[:: max(1, flat.numel() // 7)][:8].float().cpu()
            found.add(key, tuple(weight.shape), few)
        return found.hex()

    def __repr__(self) -> str:
        kind = type(self.hf).__name__
        return f"ReasoningModel({self.name!r}, {kind}, {self.n_blocks} blocks of {self.d_model})"

    # ---------------------------------------------------------------- generation

    def generate(
        self,
        prompts: Sequence[Question] | Sequence[Sequence[int]],
        variants: Sequence[Any] | None = None,
        budget: Budgets | None = None,
        **options: Any,
    ) -> Chains:
        """Generates a chain for every prompt x variant x sample x budget, in that order.

        This calls `interp.decoding.generate.generate`, which describes all options.

        Args:
            prompts: questions, lists of messages ("role" and "content"), or lists of token ids.
            variants: variants of the model, decoded in one batch; the dense model by default.
            budget: thinking and answer tokens, one budget or several, or thinking tokens alone as
                numbers; `Budget()` by default.
            **options: further options of `interp.decoding.generate.generate`, such as `samples`,
                `seed`, `sampling` and `slots`.

        Returns:
            The chains.

        Raises:
            UserError: an argument is invalid, or the decoder was not imported.
            NonFiniteError: a logit is not a finite number.
        """
        decoder = ReasoningModel.decoder
        if decoder is None:
            raise UserError(
                "The decoder is not imported: import prunescope or interp.decoding.generate first."
            )
        return decoder(self, prompts, variants, budget, **options)

    def run_with_cache(
        self, prompt: Any, variant: Any = None, names: Any = None, **options: Any
    ) -> NamedCache:
        """Runs one forward pass and keeps activations under the names of TransformerLens.

        This calls `interp.activations.forward_cache.run_with_cache`, which lists the names.

        Args:
            prompt: a question, token ids or a chain; or several of these.
            variant: the variant to run; None for the model as it is.
            names: the names to keep, such as "blocks.3.hook_resid_post" (l is the dense index), or
                a predicate on names; default: all but attention patterns.
            **options: `max_bytes`, the most bytes that may be kept.

        Returns:
            A read-only mapping from names to tensors.

        Raises:
            UserError: an argument is invalid, or nothing that reads activations was imported.
        """
        cacher = ReasoningModel.cacher
        if cacher is None:
            raise UserError(
                "Activations cannot be read yet: import prunescope or interp.activations first."
            )
        return cacher(self, prompt, variant, names, **options)


def _chosen_format(
    given: Delimiters | FormatChoice | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[Delimiters, Origin]:
    """Returns the thinking format of a model, and where it comes from."""
    if isinstance(given, Delimiters):
        return given, "caller"
    own, origin = find_format(tokenizer)
    return (own, origin) if given is None else (given.of(own, tokenizer), "caller")
