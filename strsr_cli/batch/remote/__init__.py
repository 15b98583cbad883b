"""Batches whose INPUT or OUTPUT is a URL: objects of a store in place of files."""
