"""What the repairs share: cuts, streams at a cut, linear maps as hooks, and folding them.

`cuts` finds the runs of removed blocks, `streams` what the model holds on either side of one,
`live` applies a linear map as a hook, `wiring` knows which weights read and write the residual
stream, `fold` puts a map into them, `measure` and `repair_saving` do what their names say.
"""
