"""The shape of a model by its configuration: parameters, cost per token, size of the cache.

No weights are read or allocated: parameters are counted on a model without storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.model.checkpoint_files import locate
from interp.model.gguf_file import is_gguf
from interp.model.loading import config_of, load_config, refusing, without_storage
from scaling.costs.flops import ModelCost

EXPECTED = "Expected a config.json, a folder that holds one, a Hub name, or 'testbed'."


@dataclass(frozen=True)
class ModelShape:
    """The size of a model, according to its configuration.

    Attributes:
        name: where the configuration is from.
        cost: FLOPs of its blocks and head.
        weights: number of all parameters.
        kv: numbers per token in the key/value cache of all blocks.
        vocab: width of the logits V.
        config: the Hugging Face configuration.
    """

    name: str
    cost: ModelCost
    weights: int
    kv: int
    vocab: int
    config: Any = field(repr=False, compare=False)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.cost.blocks)

    @classmethod
    def of(cls, source: str | Path | Any, trust_remote_code: bool = False) -> ModelShape:
        """The shape of a model. No weight is read.

        Args:
            source: a config.json, a folder with one, a Hub name, "testbed", or a Hugging Face
                configuration.
            trust_remote_code: whether the model's own code may run.

        Returns:
            The shape; parameters are counted on a model without storage.
        """
        named = isinstance(source, (str, Path))
        config = read_config(str(source), trust_remote_code) if named else source
        name = str(source) if named else str(config.model_type)
        with refusing(f"No model can be made of the configuration of {name!r}", EXPECTED):
            bare = without_storage(config, trust_remote_code)
            text = config.get_text_config()
            groups = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
            width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            cost = ModelCost.of(config)
            if not cost.blocks or groups < 1 or width < 1:
                raise ValueError("it has no blocks, or no attention heads.")
            return cls(
                name=name,
                cost=cost,
                weights=sum(p.numel() for p in bare.parameters()),
                kv=2 * int(text.num_hidden_layers) * groups * int(width),
                vocab=int(text.vocab_size),
                config=config,
            )


def read_config(source: str, trust_remote_code: bool = False) -> Any:
    """Read the Hugging Face configuration of a model.

    Args:
        source: a config.json, a folder with one, a Hub name or "testbed".
        trust_remote_code: whether the model's own code may run.

    Returns:
        The configuration.

    Raises:
        UserError: there is no usable configuration in `source`.
    """
    path = Path(source).expanduser()
    file = path / "config.json" if path.is_dir() else path
    with refusing(f"No model configuration in {source!r}", EXPECTED):
        if file.is_file() and not is_gguf(file) and not (path.is_dir() and trust_remote_code):
            return config_of(file)
        return load_config(locate(source, weights=False), trust_remote_code)
