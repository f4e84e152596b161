"""What turns requests into chains: this process, a server, Ray."""
