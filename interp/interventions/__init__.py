"""What is done to a block's delta, when, and the hooks that do it."""
