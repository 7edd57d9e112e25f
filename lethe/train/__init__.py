"""One run: settings, terms, loop, order, checkpoints, readers of its events, stop token, watchdog, modifiers."""
