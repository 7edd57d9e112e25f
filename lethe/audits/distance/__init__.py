"""How far the model is from retrained ones."""
