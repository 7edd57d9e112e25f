"""What comes back: relearning, pruning, rounding, probes, pairs of models."""
