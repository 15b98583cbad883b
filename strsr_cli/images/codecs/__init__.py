"""The file formats, one in each file."""
