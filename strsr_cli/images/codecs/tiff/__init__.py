"""TIFF, which holds more kinds of pixels than any other format."""
