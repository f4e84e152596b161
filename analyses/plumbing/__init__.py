"""Shared parts of the analyses: frames, tables, style, command, workbench."""
