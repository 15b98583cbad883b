"""Pipelines: a family of models behind the same four verbs."""
