"""The command that prints a shell's completion script, made from the commands' own options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro

from interp.plumbing.command_line import Lines, command
from prunescope.commands.output import Command, Result

Tree = Mapping[tuple[str, ...], list[str]]

_BASH = """\
# bash completion of prunescope: eval "$(prunescope completion bash)"
_prunescope() {{
    local here="${{COMP_WORDS[COMP_CWORD]}}" path="" word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        word="${{path:+$path/}}$word"
        case " {paths} " in *" $word "*) path="$word" ;; *) break ;; esac
    done
    local words=""
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$here"))
}}
complete -o default -F _prunescope prunescope
"""
_ZSH = """\
#compdef prunescope
# zsh completion of prunescope: eval "$(prunescope completion zsh)"
_prunescope() {{
    local found="" word i
    local -a found_words
    for ((i = 2; i < CURRENT; i++)); do
        word="${{words[i]}}"
        word="${{found:+$found/}}$word"
        case " {paths} " in *" $word "*) found="$word" ;; *) break ;; esac
    done
    case "$found" in
{cases}
    esac
    compadd -- $found_words
    _files
}}
compdef _prunescope prunescope
"""


Leaves = Sequence[tuple[tuple[str, ...], type[Command]]]


def _unknown() -> Leaves:
    raise NotImplementedError("prunescope.cli says which commands there are")


#: Gives every command, its words and its class; `prunescope.cli` sets it.
every_command: Callable[[], Leaves] = _unknown


@command
class Completion(Command):
    """Print the completion script of a shell: commands, options, and values that can be listed.

    prunescope completion bash > ~/.local/share/bash-completion/completions/prunescope

    prunescope completion fish > ~/.config/fish/completions/prunescope.fish
    """

    ENTRIES: ClassVar = {"shell": "the shell", "script": "the script"}
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""

    def run(self) -> Lines:
        tree = completions(dict(every_command()))
        script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[self.shell](tree)
        yield Result(script.rstrip("\n"), shell=self.shell, script=script)


def completions(known: Mapping[tuple[str, ...], type[Command]]) -> Tree:
    """What may follow each path of commands.

    Args:
        known: the commands by their words.

    Returns:
        By path ((), ("testbed",), ("study",)): subcommands, or options and listed values.
    """
    tree: dict[tuple[str, ...], list[str]] = {}
    for path, made in known.items():
        for n, word in enumerate(path):
            above = tree.setdefault(path[:n], [])
            above += [word] * (word not in above)
        tree[path] = _words(made)
    tree[()] += ["--help", "--version"]
    return tree


def _words(made: type[Command]) -> list[str]:
    """The options of a command, and the values that a type lists."""
    hints = get_type_hints(made, include_extras=True)
    found = []
    for field in dataclasses.fields(made):
        hint = hints[field.name]
        extras: tuple[object, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            extras = tuple(rest)
        if get_origin(hint) is Literal:
            found += map(str, get_args(hint))
        if tyro.conf.Positional[int].__metadata__[0] not in extras:  # type: ignore[attr-defined]
            found.append(f"--{field.name.replace('_', '-')}")
    return [*found, "--help"]


def _paths(tree: Tree) -> str:
    return " ".join("/".join(path) for path in tree if path)


def _bash(tree: Tree) -> str:
    cases = "\n".join(f'    "{"/".join(p)}") words="{" ".join(w)}" ;;' for p, w in tree.items())
    return _BASH.format(paths=_paths(tree), cases=cases)


def _zsh(tree: Tree) -> str:
    cases = "\n".join(
        f'    "{"/".join(p)}") found_words=({" ".join(w)}) ;;' for p, w in tree.items()
    )
    return _ZSH.format(paths=_paths(tree), cases=cases)


def _fish(tree: Tree) -> str:
    lines = ["# fish completion of prunescope", "complete -c prunescope -f"]
    for path, words in tree.items():
        below = " ".join(w for w in words if not w.startswith("-"))
        when = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
        if not path:
            when = f"not __fish_seen_subcommand_from {below}"
        elif any(p[: len(path)] == path and p != path for p in tree):
            when += f"; and not __fish_seen_subcommand_from {below}"
        for word in words:
            option = f"-l {word.removeprefix('--')}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c prunescope -n '{when}' {option}")
        if path:
            lines.append(f"complete -c prunescope -n '{when}' -F")
    return "\n".join(lines) + "\n"
