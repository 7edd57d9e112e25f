"""Whether single records show: attacks with and without shadow models."""
