"""Classifiers with several labels per example."""
