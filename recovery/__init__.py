"""Recovery: try to mend a pruned model by training it (supervised, distilled, on its own chains).

This room may use scaling, pruning and interp, and nothing here is used by them. It is empty until
its first method; see the order of rooms in CONTRIBUTING.md.
"""
