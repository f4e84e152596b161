"""What the analyses share: frames, tables, style, command, workbench."""
