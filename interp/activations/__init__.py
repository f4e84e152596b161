"""Capture of the residual stream, reducers over it, and its store on disk."""
