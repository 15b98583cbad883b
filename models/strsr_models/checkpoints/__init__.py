"""Weights on disk: where they lie, and reading them strictly."""
