"""What the model does: scores, errors, calibration, cost."""
