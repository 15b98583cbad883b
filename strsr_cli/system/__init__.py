"""This machine, this process, its disk, its terminal; knows no image and no model."""
