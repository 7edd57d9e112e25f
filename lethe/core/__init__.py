"""Types, splits, seeds and pure mathematics; imports torch and numpy only."""
