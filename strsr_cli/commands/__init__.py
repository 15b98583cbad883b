"""Signatures, help and one call each: a file a command. Nothing here is heavy to import."""
