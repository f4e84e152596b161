"""What a chain would have been: edits, window maps, forks."""
