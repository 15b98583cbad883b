"""The strsr command: paths and options in, files and reports out."""

__version__ = "0.1.0"
