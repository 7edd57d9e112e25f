"""Text-to-image diffusion models."""
