"""Encoders: what is in a picture (semantic), and features to compare pictures by."""
