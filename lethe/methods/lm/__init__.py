"""See lethe.methods."""
