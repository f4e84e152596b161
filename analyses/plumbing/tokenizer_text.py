"""Token ids to text by a model's tokenizer, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenizerText:
    """Decodes ids with a tokenizer alone.

    Attributes:
        tokenizer: a tokenizer of transformers.
    """

    tokenizer: Any

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode token ids.

        Args:
            ids: token ids.
            skip_special: whether to leave out special tokens.

        Returns:
            The text.
        """
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def texts(self, rows: list[list[int]]) -> list[str]:
        """Decode several chains, special tokens included."""
        return list(self.tokenizer.batch_decode(rows, skip_special_tokens=False))

    @classmethod
    def of(
        cls, model: str, trust_remote_code: bool = False, download: bool = False
    ) -> TokenizerText:
        """Load a model's tokenizer, without its weights.

        Args:
            model: "testbed", a folder, a GGUF file or a Hub name.
            trust_remote_code: whether the model's own code may run, for a tokenizer that needs it.
            download: whether to contact the Hub. A study is read without a network: its model was
                here when it was measured, and a Hub that does not answer costs a minute.

        Returns:
            The decoder.

        Raises:
            UserError: the tokenizer is missing, damaged, or needs code that may not run.
        """
        from interp.model.checkpoint_files import locate
        from interp.model.loading import load_tokenizer

        place = locate(model, weights=False, download=download)
        return cls(load_tokenizer(place, trust_remote_code, download))
