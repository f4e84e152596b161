"""What every package needs: the registry of plugins, and the command line."""
