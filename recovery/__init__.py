"""Recovery: try to mend a pruned model by training it, and say what the training cost and bought.

`recovery.run.recover` is the whole of it: a pruned model, a method (`lora`, `full`, `self`,
`distill`, `rl`), training data, a folder; a checkpoint comes out that loads like any other. TRL,
PEFT and Accelerate do the training (extra `recovery`). What stands here is what they do not know:
blocks and plans, thinking and its delimiters, problems with a verifier, overlap with what is
measured afterwards, equal training tokens, and a run that is killed and goes on.

| file | what it holds |
|---|---|
| examples.py, sources.py | training data: what it is, where it comes from |
| tokens.py, overlap.py | its ids; what it must not hold |
| recovery_config.py | everything that decides a run |
| answers.py, writing.py | the dense model's answers; completions of the model in training |
| building.py, trainers.py | TRL's configurations and trainers, and what is added to them |
| training_run.py, sweep.py, run.py | one rate, several, a run from settings to checkpoint |
| teacher.py, saving.py, result.py | the dense model; the checkpoint; what a run says of itself |
| watching.py, run_folder.py, libraries.py | log, progress, states; whose folder; quiet libraries |
| changes.py | how far a training moved each block |
| training_memory.py, configs/ | what a run needs per GPU, on paper; Accelerate's configurations |
| study.py | every method on several plans at equal training tokens, measured |

This room may use scaling, pruning, testbed and interp; only analyses and the front door use it.
"""
