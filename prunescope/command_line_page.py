"""docs/command_line.md, made from the commands: python -m prunescope.command_line_page."""

from __future__ import annotations

from pathlib import Path

from interp.plumbing.command_line import EXIT_CODES
from prunescope import cli
from prunescope.commands.output import ALWAYS

FILE = Path(__file__).parents[1] / "docs" / "command_line.md"
HEAD = """\
# The command line

Made from the commands by `python -m prunescope.command_line_page`; change those.

`prunescope COMMAND --help` explains a command with examples. What every command has:

| option | meaning |
|---|---|
| `--json` | standard output has one JSON object and nothing else; the rest goes to standard error |
| `--quiet` | results and errors only: no progress, no advice |
| `--help` | options and examples |

A command prints what it found, then where it is, then the command to run next. Progress is written
to standard error: a bar on a terminal, a line every 15 seconds elsewhere. Its "time left" is for
the whole run, and appears as soon as chains have been measured.

## Exit codes

| code | meaning |
|---|---|
"""
SHELLS = """
## Shell completion

| shell | once, or in the file that the shell reads at its start |
|---|---|
| bash | `eval "$(prunescope completion bash)"` |
| zsh | `eval "$(prunescope completion zsh)"`, after `compinit` |
| fish | `prunescope completion fish > ~/.config/fish/completions/prunescope.fish` |

Commands, options and listed values are completed; where a file may stand, files are.

## The JSON object

Every object has these entries, also when the command failed:

| entry | meaning |
|---|---|
"""
ENTRIES = """
A command that ended well adds entries of its own; one that does not apply (a file that was not
asked for) is absent. A table is a list of rows with the names of its columns; a number that is not
finite is `null`. Entries may be added by later versions; none is renamed or taken away without a
deprecation.

<!-- not run: jq reads what comes out -->
```bash
prunescope compare studies/dense studies/pruned --json | jq -r .verdict
prunescope scale --quick --json 2>/dev/null | jq '.budgets[] | {benchmark, value, low, high}'
```
"""


def page() -> str:
    """The page."""
    text = HEAD + "".join(f"| {code} | {said} |\n" for code, said in EXIT_CODES.items())
    text += SHELLS + "".join(f"| `{name}` | {said} |\n" for name, said in ALWAYS.items())
    text += ENTRIES
    for path, command in cli.leaves():
        about = (command.__doc__ or "").partition("\n\n")[0].strip()
        text += f"\n### {' '.join(path)}\n{about}\n\n| entry | meaning |\n|---|---|\n"
        text += "".join(f"| `{name}` | {said} |\n" for name, said in command.ENTRIES.items())
    return text


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
