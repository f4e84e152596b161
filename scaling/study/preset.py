"""Presets: the settings of a study in a TOML file, shipped (`presets/`) or the user's own.

The file's keys are fields of `StudyConfig` that decide what is measured. What is given beside a
preset replaces it, setting by setting; numbers by benchmark are only kept for the benchmarks that
are measured.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import UserError, did_you_mean
from interp.json_reader import read_utf8, short
from scaling.benchmarks import PromptChoice
from scaling.study.config import StudyConfig

FOLDER = Path(__file__).parent / "presets"
TUPLES = ("benchmarks", "methods", "remove", "budgets", "waits")
FIELDS = (*TUPLES, "limit", "keep", "prompts", "answer", "samples", "blocks", "temperature",
          "top_k", "top_p")  # fmt: skip


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Read a preset.

    Args:
        name: name of a shipped preset, or a .toml file.

    Returns:
        The settings by field; `prompts` as a mapping.

    Raises:
        UserError: there is no such preset, it is not TOML, or a key is no setting.
    """
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not file.is_file():
        known = f"{did_you_mean(name, presets(), 'preset')} Or give a .toml file of your own."
        raise UserError(f"No file {name!r}." if name.endswith(".toml") else known)
    try:
        content = tomllib.loads(read_utf8(file))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file.name} is not TOML: {error}.") from None
    for key, value in content.items():
        if key not in FIELDS:
            raise UserError(f"{file.name}: {did_you_mean(key, FIELDS, 'setting')}")
        if key in TUPLES:
            if not isinstance(value, list):
                raise UserError(f"{file.name}: {key} is {short(value)}; expected a list.")
            content[key] = tuple(value)
    kept = content.get("keep", {})
    own = list(kept.values()) if isinstance(kept, dict) else [kept]
    if not all(isinstance(o, dict) and all(isinstance(v, list) for v in o.values()) for o in own):
        raise UserError(
            f"{file.name}: keep is {short(kept)}; expected lists of values by benchmark and field."
        )
    if kept:
        content["keep"] = {
            name: {field: tuple(values) for field, values in fields.items()}
            for name, fields in kept.items()
        }
    asked = content.get("prompts", {})
    if not isinstance(asked, dict) or not isinstance(asked.get("shots", {}), dict):
        raise UserError(f"{file.name}: prompts is {short(asked)}; expected tables.")
    if wrong := sorted(set(asked) - {"chat_template", "shots", "without_template"}):
        raise UserError(
            f"{file.name}: prompts has {wrong[0]!r}; expected chat_template, shots and "
            "without_template."
        )
    if not isinstance(asked.get("without_template", []), list):
        raise UserError(
            f"{file.name}: without_template is {short(asked['without_template'])}; expected a list."
        )
    return content


def preset_config(name: str, **given: Any) -> StudyConfig:
    """The settings of a preset, and what is given beside it.

    Args:
        name: name of a shipped preset, or a .toml file.
        **given: fields of `StudyConfig`. One that is None or empty leaves the preset's; examples
            and files of `prompts` are added to it.

    Returns:
        The settings.

    Raises:
        UserError: see `read_preset`, or the settings contradict each other.
    """
    content = read_preset(name)
    told = {key: value for key, value in given.items() if value not in (None, (), {})}
    names = told.get("benchmarks") or content.get("benchmarks") or ()
    asked: PromptChoice = told.pop("prompts", PromptChoice())
    own = content.pop("prompts", {})
    if names:
        content = {key: _only(value, names) for key, value in content.items()}
    shots = {**_only(own.get("shots", {}), names or own.get("shots", {})), **asked.shots}
    chat = own.get("chat_template", "auto") if asked.chat_template == "auto" else None
    bare = [name for name in own.get("without_template", []) if not names or name in names]
    content["prompts"] = PromptChoice(
        chat or asked.chat_template,
        shots,
        asked.shots_from,
        tuple(dict.fromkeys([*bare, *asked.without_template])),
    )
    return StudyConfig(**content | told)


def _only(value: Any, names: Any) -> Any:
    """A mapping by benchmark, without the benchmarks that are not measured."""
    return {k: v for k, v in value.items() if k in names} if isinstance(value, Mapping) else value
