"""Rectangles of a picture: arithmetic only."""
