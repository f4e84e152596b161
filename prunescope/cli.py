"""The command line: options in, one call of the Python API, lines or one JSON object out.

Exit codes are in `interp.plumbing.command_line.EXIT_CODES`; what was finished before any of them is
kept. docs/command_line.md is made from this table: python -m prunescope.command_line_page
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from interp.errors import check_known
from interp.plumbing.command_line import execute
from prunescope import commands
from prunescope.commands import completion
from prunescope.commands.output import Command, TerminalOutput

COMMANDS: Mapping[str, type | Mapping[str, type]] = {
    "study": commands.Study,
    "score": commands.Score,
    "prune": commands.Prune,
    "scale": commands.ScaleCommand,
    "diagnose": commands.Diagnose,
    "effects": commands.EffectsCommand,
    "judge": commands.JudgeCommand,
    "recover": commands.Recover,
    "recover-study": commands.RecoverStudy,
    "report": commands.Report,
    "compare": commands.Compare,
    "view": commands.View,
    "rescue": commands.Rescue,
    "import-lm-eval": commands.ImportLmEval,
    "export-lm-eval": commands.ExportLmEval,
    "doctor": commands.Doctor,
    "testbed": {"train": commands.Train, "evaluate": commands.Evaluate},
    "completion": commands.Completion,
}
CRITERIA, REPAIRS = "pruning.criteria", "pruning.repairs"
BENCHMARKS, ANALYSES = "scaling.benchmarks", "analyses.plumbing.catalogue"
REGISTRIES: Mapping[str, tuple[str, ...]] = {
    "study": (CRITERIA, BENCHMARKS, "scaling.grading"),
    "score": (CRITERIA, BENCHMARKS),
    "prune": (CRITERIA, REPAIRS, BENCHMARKS),
    "scale": (BENCHMARKS, "scaling.grading"),
    "report": (ANALYSES,),
}
ABOUT = {
    "prunescope": "Remove blocks of a reasoning model, let it think, and see what broke, where, "
    "and why.",
    "prunescope testbed": "The bundled reasoner: train it from nothing, measure it.",
}
GO_ON = "\nStopped. What was finished is kept; run the same command again to go on from there."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    _quiet()
    words = list(arguments)
    with TerminalOutput(words, named(words)) as output:
        return execute(lambda: parse("prunescope", COMMANDS, words), "prunescope", GO_ON, output)


def leaves(
    known: Mapping[str, Any] = COMMANDS, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], type[Command]]]:
    """Every command: its words and its class."""
    found = []
    for name, command in known.items():
        here = (*path, name)
        found += leaves(command, here) if isinstance(command, Mapping) else [(here, command)]
    return found


completion.every_command = leaves


def named(words: Sequence[str]) -> str:
    """The command that the words name: "study", "testbed train"; as they begin if none has it."""
    for path, _ in leaves():
        if tuple(words[: len(path)]) == path:
            return " ".join(path)
    return " ".join(words[:1])


def parse(prog: str, known: Mapping[str, Any], arguments: list[str]) -> Any:
    """The command that the arguments name, with its options; None after help was asked for."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(prog, known))
        return None
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        import prunescope

        print(f"prunescope {prunescope.__version__}")
        return None
    check_known(name, known, "command")
    if isinstance(known[name], Mapping):
        return parse(f"{prog} {name}", known[name], rest)
    try:
        return tyro.cli(known[name], prog=f"{prog} {name}", args=rest)
    except SystemExit:
        if {"-h", "--help"} & set(rest):
            print("\n".join(names_known(name)))
        raise


def names_known(command: str) -> list[str]:
    """What the options of a command may name: a line per registry, own and other packages'."""
    found = []
    for module in REGISTRIES.get(command, ()):
        registry = importlib.import_module(module).REGISTRY
        found.append(f"{registry.plural}: {', '.join(registry.entries())}")
    return found


def overview(prog: str, known: Mapping[str, Any]) -> str:
    """What there is, a line a command."""
    lines = [ABOUT[prog], "", f"usage: {prog} COMMAND [options]", ""]
    width = max(map(len, known))
    for name, command in known.items():
        about = ABOUT.get(f"{prog} {name}") or (command.__doc__ or "")
        lines.append(f"  {name:<{width}}  {about.partition(chr(10) * 2)[0]}")
    lines += ["", f"Each command explains itself with examples: {prog} COMMAND --help"]
    if prog == "prunescope":
        lines.append("Begin with: prunescope study --quick")
    return "\n".join(lines)


def _quiet() -> None:
    """Libraries' progress bars and notices off: the command line has its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    main()
