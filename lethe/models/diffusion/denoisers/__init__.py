"""One file a kind of network: how it is asked. See `lethe.models.diffusion.denoiser`."""
