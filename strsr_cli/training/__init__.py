"""Loops that teach a pipeline."""
