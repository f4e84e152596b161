"""The decoder: generates many long chains in one batch (request, scheduler, batch, runner)."""
