"""The command that prints a shell's completion script, made from the commands' own options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro

from interp.plumbing.command_line import Lines, command
from prunescope.commands.output import Command, Result

Tree = Mapping[tuple[str, ...], list[str]]

_BASH = """\
# bash completion of prunescope: eval "$(prunescope completion bash)"
_prunescope() {{
    local here="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD - 1]}}"
    local path="" word words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        word="${{path:+$path/}}$word"
        case " {paths} " in *" $word "*) path="$word" ;; *) break ;; esac
    done
    case "$path $before" in
{values}
    *)
        case "$path" in
{words}
        esac
        ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$here"))
}}
complete -o default -F _prunescope prunescope
"""
# As an autoloaded file the script is the body of the function that it replaces.
_ZSH = """\
#compdef prunescope
# zsh completion of prunescope: eval "$(prunescope completion zsh)", after compinit
_prunescope() {{
    local before="${{words[CURRENT - 1]}}" found="" word i
    local -a offered
    for ((i = 2; i < CURRENT; i++)); do
        word="${{words[i]}}"
        word="${{found:+$found/}}$word"
        case " {paths} " in *" $word "*) found="$word" ;; *) break ;; esac
    done
    case "$found $before" in
{values}
    *)
        case "$found" in
{words}
        esac
        ;;
    esac
    compadd -- $offered || [[ "${{offered[1]:--}}" != -* ]] || _files
}}
if [[ "${{funcstack[1]}}" == _prunescope ]]; then
    _prunescope "$@"
else
    compdef _prunescope prunescope
fi
"""
_FISH = """\
# fish completion of prunescope: prunescope completion fish | source
function __prunescope_at
    set -l found
    for word in (commandline -opc)[2..-1]
        set -l longer (string join -- / $found $word)
        contains -- $longer {paths}
        and set found $longer
        or break
    end
    test "$found" = "$argv[1]"
end
complete -c prunescope -f
{lines}
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
        script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[self.shell](dict(every_command()))
        yield Result(script.rstrip("\n"), shell=self.shell, script=script)


def completions(known: Mapping[tuple[str, ...], type[Command]]) -> Tree:
    """What may follow each path of commands.

    Args:
        known: the commands by their words.

    Returns:
        By path ((), ("testbed",), ("study",)): subcommands, or listed values and options; by path
        with an option at its end (("study", "--decoder")): the option's listed values.
    """
    tree: dict[tuple[str, ...], list[str]] = {}
    for path, made in known.items():
        for n, word in enumerate(path):
            above = tree.setdefault(path[:n], [])
            above += [word] * (word not in above)
        words = tree.setdefault(path, [])
        for name, hint, positional in _arguments(made):
            listed = [*map(str, get_args(hint))] if get_origin(hint) is Literal else []
            words += listed if positional else [name]
            if listed and not positional:
                tree[*path, name] = listed
        words.append("--help")
    tree[()] += ["--help", "--version"]
    return tree


def _arguments(made: type[Command]) -> list[tuple[str, Any, bool]]:
    """The name, the type and whether it is positional, of each argument of a command."""
    hints = get_type_hints(made, include_extras=True)
    mark = tyro.conf.Positional[int].__metadata__[0]  # type: ignore[attr-defined]
    found = []
    for field in dataclasses.fields(made):
        hint, extras = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
        found.append((f"--{field.name.replace('_', '-')}", hint, mark in extras))
    return found


def _paths(tree: Tree) -> str:
    return " ".join("/".join(path) for path in tree if path and path[-1][0] != "-")


def _cases(tree: Tree, setting: str) -> dict[str, str]:
    """The two tables of a script: the values of options, and the words of commands."""
    values, words = [], []
    for path, listed in tree.items():
        option = bool(path) and path[-1][0] == "-"
        key = f"{'/'.join(path[:-1])} {path[-1]}" if option else "/".join(path)
        line = f'"{key}") {setting.format(" ".join(listed))} ;;'
        (values if option else words).append(" " * (4 if option else 8) + line)
    return {"paths": _paths(tree), "values": "\n".join(values), "words": "\n".join(words)}


def _bash(known: Mapping[tuple[str, ...], type[Command]]) -> str:
    return _BASH.format(**_cases(completions(known), 'words="{}"'))


def _zsh(known: Mapping[tuple[str, ...], type[Command]]) -> str:
    return _ZSH.format(**_cases(completions(known), "offered=({})"))


def _fish(known: Mapping[tuple[str, ...], type[Command]]) -> str:
    tree, lines = completions(known), []
    for path, words in tree.items():
        if path and path[-1][0] == "-":
            continue
        begin = f"complete -c prunescope -n '__prunescope_at \"{'/'.join(path)}\"'"
        types = {name: hint for name, hint, _ in _arguments(known[path])} if path in known else {}
        plain = [word for word in words if word[0] != "-"]
        lines += [f"{begin} -a '{' '.join(plain)}'" if plain else f"{begin} -F"]
        for option in words[len(plain) :]:
            listed = tree.get((*path, option))
            value = "" if types.get(option, bool) is bool else " -rF"
            value = f" -xa '{' '.join(listed)}'" if listed else value
            lines.append(f"{begin} -l {option[2:]}{value}")
    return _FISH.format(paths=_paths(tree), lines="\n".join(lines))
