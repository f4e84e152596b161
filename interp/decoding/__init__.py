"""Long chains, many at once: requests, scheduler, batch, model runner."""
