"""Image-to-image models: what completes pictures."""
