"""The loop and what it is made of: modifiers, checkpoints, cache, pools, distribution. Knows no method."""
