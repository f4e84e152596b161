"""The subcommands: frozen dataclasses whose fields are the options and whose `run` is one call.

A class docstring is the command's help. What is heavy is imported in `run`, so `--help` is quick.
`run` returns the lines for standard output; progress goes to standard error.
"""

from prunescope.commands.diagnose import Diagnose
from prunescope.commands.doctor import Doctor
from prunescope.commands.exchange import ExportLmEval, ImportLmEval
from prunescope.commands.judge import Judge
from prunescope.commands.pruning import Prune, Score
from prunescope.commands.recover import Recover, RecoverStudy
from prunescope.commands.shared import default_folder
from prunescope.commands.studies import Effects, Report, Rescue, Scale, Study
from prunescope.commands.testbed import Evaluate, Train

__all__ = [
    "Diagnose",
    "Doctor",
    "Effects",
    "Evaluate",
    "ExportLmEval",
    "ImportLmEval",
    "Judge",
    "Prune",
    "Recover",
    "RecoverStudy",
    "Report",
    "Rescue",
    "Scale",
    "Score",
    "Study",
    "Train",
    "default_folder",
]
