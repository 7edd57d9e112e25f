"""Classifiers of any library."""
