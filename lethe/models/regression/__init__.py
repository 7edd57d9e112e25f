"""Regressors and forecasters."""
