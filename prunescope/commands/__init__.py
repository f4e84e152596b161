"""The subcommands: frozen dataclasses whose fields are the options and whose `run` is one call.

A class docstring is the command's help. What is heavy is imported in `run`, so `--help` is quick.
`run` yields lines and results (`prunescope.commands.output`); progress goes to standard error.
"""

from prunescope.commands.compare_command import Compare
from prunescope.commands.completion import Completion
from prunescope.commands.diagnose import Diagnose
from prunescope.commands.doctor_command import Doctor
from prunescope.commands.judge_command import JudgeCommand
from prunescope.commands.lm_eval_commands import ExportLmEval, ImportLmEval
from prunescope.commands.pruning import Prune, Score
from prunescope.commands.recover import Recover, RecoverStudy
from prunescope.commands.shared import default_folder
from prunescope.commands.studies import EffectsCommand, Report, Rescue, ScaleCommand, Study
from prunescope.commands.testbed import Evaluate, Train
from prunescope.commands.view import View
