"""Which records a prediction rests on."""
