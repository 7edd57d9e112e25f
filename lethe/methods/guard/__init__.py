"""Methods that leave the weights and answer in their place."""
