"""Regressors of any library."""
