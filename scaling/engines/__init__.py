"""Engines that turn requests into chains: this process, a server, a Ray cluster."""
