"""Shared code of the repairs: cuts, streams at a cut, linear maps as hooks, and folding them.

`cuts` finds the runs of removed blocks, `streams` gives the residual stream on either side of a
run, `normal_equations` fits a linear map to it, `live` applies a linear map as a hook, `wiring`
knows which weights read and write the residual stream, `fold` puts a map into them, `gains`
measures the error of an inexact fold, `hadamard` builds Hadamard matrices, and `repair_saving`
writes the checkpoint.
"""
