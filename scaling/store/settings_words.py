"""What differs between the settings of two studies, in words."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scaling.store.stored_benchmark import PROMPTING
from scaling.store.thinking_format import FORMAT

_NAMES = {
    "model": "the model",
    "methods": "pruning methods",
    "remove": "blocks removed by each method",
    "waits": '"wait" extensions',
    "seed": "the seed",
    "prompts": "worked examples and chat template",
    "keep": "the problems that are kept",
    "calibration": "the calibration problems per benchmark (--calibration)",
    "recipe": "the recipe of a row",
    "model fingerprint": "the model's weights or configuration",
    "model file": "the model's file",
    "model dtype": "the precision of the weights",
    "removed before": "the blocks that the model lacks",
    FORMAT: "the thinking format",
}
_SAMPLING = ("the temperature", "top-k", "top-p")
_WORKLOAD = {
    "problems": "the number of problems (--limit) of {}",
    "budgets": "the thinking budgets of {}",
    "answer": "the answer tokens of {}",
    "parallel_problems": "the problems with several samples of {}",
    "parallel_samples": "the samples per problem of {}",
    "wait_problems": 'the problems with "wait" of {}',
    "block_problems": "the problems on which blocks are skipped of {}",
    "block_samples": "the samples per skipped block of {}",
}


@dataclass(frozen=True)
class SettingsDifference:
    """One setting that differs.

    Attributes:
        key: the setting: a key of `config` or `meta`, or NAME.FIELD of a workload.
        what: the setting in words.
        first: its value in the first study; "not set" where there is none.
        other: its value in the other.
    """

    key: str
    what: str
    first: str
    other: str

    def said(self, first: str = "there", other: str = "now") -> str:
        """The difference in words.

        Args:
            first: what the first study is called.
            other: what the other is called.

        Returns:
            Words such as "the number of problems (--limit) of gsm8k is 8 there and 9 now".
        """
        if "#" in (self.first[:1], self.other[:1]):  # hashes say nothing but that they differ
            return f"{self.what} differ{'' if self.key.startswith('problems ') else 's'}"
        return f"{self.what} is {self.first} {first} and {self.other} {other}"


def settings_differences(
    config: Mapping[str, Any],
    meta: Mapping[str, str],
    other_config: Mapping[str, Any],
    other_meta: Mapping[str, str],
) -> list[SettingsDifference]:
    """Everything in which two studies differ.

    Args:
        config: settings of the first study (`Store.config`).
        meta: its facts (`Store.meta`).
        other_config: settings of the other.
        other_meta: its facts.

    Returns:
        The differences; the settings first.
    """
    found = []
    both = set(config.get("workloads") or {}) & set(other_config.get("workloads") or {})
    for old, new in (
        (_settings(config, both), _settings(other_config, both)),
        (_facts(meta), _facts(other_meta)),
    ):
        for key, (what, _) in {**old, **new}.items():
            first, other = (side.get(key, ("", None))[1] for side in (old, new))
            if first != other:
                found.append(SettingsDifference(key, what, _brief(first), _brief(other)))
    return found


def _settings(config: Mapping[str, Any], both: Collection[str]) -> dict[str, tuple[str, Any]]:
    """By key, (words, value); sampling and the workloads that both have are taken apart."""
    found: dict[str, tuple[str, Any]] = {}
    for key, value in config.items():
        if key == "workloads" and isinstance(value, Mapping):
            found["benchmarks"] = ("the list of benchmarks", sorted(value))
            for name in sorted(both):
                load = value[name]
                for field, size in (load if isinstance(load, Mapping) else {"": load}).items():
                    words = _WORKLOAD.get(field, f"{field} of {{}}").format(name)
                    found[f"{name}.{field}"] = (words, size)
        elif key == "sampling" and isinstance(value, (list, tuple)) and len(value) == 3:
            for words, number in zip(_SAMPLING, value, strict=True):
                found[words] = (words, number)
        else:
            found[key] = (_NAMES.get(key, key), value)
    return found


def _facts(meta: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    return dict(_fact(meta))


def _fact(meta: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, Any]]]:
    for key, value in meta.items():
        if key == "schema_version":
            continue
        if key.startswith("problems "):
            name = key.removeprefix("problems ")
            yield key, (f"the problems of {name}, or how they are asked and graded,", f"#{value}")
        elif key.startswith(PROMPTING):
            yield key, (f"the worked examples of {key.removeprefix(PROMPTING)}", f"#{value}")
        elif key == "model fingerprint":
            yield key, (_NAMES[key], f"#{value}")
        else:
            yield key, (_NAMES.get(key, key), value)


def _brief(value: Any) -> str:
    """A value in few words; "#..." for a hash."""
    if value is None:
        return "not set"
    if isinstance(value, str) and value.startswith("{"):
        try:
            read = json.loads(value)
        except ValueError:
            read = {}
        value = read.get("name") or value if isinstance(read, dict) else value
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value)) or "none"
    elif not isinstance(value, str):
        value = json.dumps(value)
    return value if len(value) <= 60 or value.startswith("#") else value[:57] + "..."
