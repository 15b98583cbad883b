"""Weights on disk: the places where they lie, and reading them strictly."""
