"""What is done to a block's delta, at which steps, and the hooks that do it."""
