"""Pruning: decide which blocks to remove, and remove them.

`criteria` score blocks on calibration texts, a `LayerPlan` names the blocks that go, `surgery`
makes the model or checkpoint without them. This room knows no task.
"""
