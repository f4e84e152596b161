"""Recovery: train a pruned model, and measure what the training cost and what it repaired.

`recovery.run.recover` takes a pruned model, a method (`lora`, `full`, `self`, `distill`, `rl`),
training data and a folder, and writes a checkpoint that loads like any other. TRL, PEFT and
Accelerate do the training (extra `recovery`). This room adds what they lack: blocks and plans,
thinking and its delimiters, problems with a verifier, overlap with the evaluation, equal training
tokens, and runs that continue after being killed.

Data: examples, sources, tokens, overlap, lengths. A run: recovery_config, building, trainers,
answers, writing, training_run, sweep, run, teacher. Around it: watching, run_folder, libraries,
saving, result, changes. Estimates: training_memory, the cost files. study: every method on several
plans at equal training tokens. configs/: Accelerate's configurations.

This room may use scaling, pruning, testbed and interp; only analyses and the front door use it.
"""
