"""The protocol of engines: everything that can turn requests into chains.

`scaling.engines.local.LocalEngine` implements it with the package's own decoder,
`scaling.engines.server.ServerEngine` with a model on vLLM, SGLang or `transformers serve`, and
`scaling.engines.ray_cluster.ClusterEngine` with workers on Ray. A study does not depend on which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from interp.chains.chain import Chain

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.decoding.sampling import Sampling
    from interp.model.reasoning_model import Question, ReasoningModel
    from pruning.plan import LayerPlan
    from pruning.scores import Scores

__all__ = ["Engine", "EngineText"]


@runtime_checkable
class Engine(Protocol):
    """The operations that a study needs from a model.

    Attributes:
        model: the loaded model, or None where the weights are elsewhere.
    """

    model: Any

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block that the model has."""
        ...

    def fingerprint(self) -> str:
        """Identity of the weights and configuration."""
        ...

    def prompt_ids(self, question: Question, *, thinking: bool) -> list[int]:
        """Token ids of the prompt of a question.

        Args:
            question: text of the user's turn, messages, or a `RawPrompt`.
            thinking: whether the prompt opens the model's thinking.

        Returns:
            Token ids.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ...

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode token ids to text.

        Args:
            ids: token ids.
            skip_special: whether to leave special tokens out.

        Returns:
            The text.
        """
        ...

    def decode(
        self,
        requests: Sequence[Request],
        *,
        sampling: Sampling,
        stop_on_loop: bool,
        stop: Sequence[str] = (),
    ) -> Iterator[Chain]:
        """Decode requests.

        Args:
            requests: what to decode.
            sampling: sampling settings.
            stop_on_loop: whether to end chains that certainly loop.
            stop: strings that end an answer, and in the plain format a completion.

        Yields:
            Every chain, as soon as it is finished.
        """
        ...

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[Any],
    ) -> np.ndarray:
        """Score options as continuations of prompts.

        Args:
            prompts: token ids of P prompts.
            options: for each prompt, token ids of its O options.
            variants: V variants.

        Returns:
            Log-probability of each option under each variant, in nats: [V, P, O]; nan beyond a
            prompt's own options.
        """
        ...

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """Score the blocks by a criterion.

        Args:
            criterion: name of the criterion.
            chains: chains to calibrate on.
            seed: seed of the criterion, where it draws.
            remove: number of removals to follow, for greedy criteria.

        Returns:
            One score per block.
        """
        ...

    def choose(self, repair: str, chains: Sequence[Chain], remove: int) -> LayerPlan:
        """Let a repair that chooses the blocks itself choose them.

        Args:
            repair: name of the repair, such as "laco".
            chains: chains to calibrate on.
            remove: number of blocks.

        Returns:
            The plan; `pruning.repaired_plan.RepairedPlan` makes a variant of it.
        """
        ...


class EngineText:
    """The part of an engine that needs no weights: texts to token ids and back.

    Attributes:
        reader: the model whose tokenizer reads and writes; it may hold no weights.
    """

    def __init__(self, reader: ReasoningModel) -> None:
        self.reader = reader

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.reader.has_chat_template

    def prompt_ids(self, question: Question, *, thinking: bool) -> list[int]:
        """Token ids of the prompt of a question (see `Engine.prompt_ids`)."""
        return self.reader.prompt_ids(question, thinking=thinking)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.reader.encode(text)

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids (see `Engine.text`)."""
        return self.reader.text(ids, skip_special)
