"""Capture of the residual stream, reducers over it, its store on disk, and named activations."""

from interp.activations import forward_cache  # gives models their `run_with_cache`
