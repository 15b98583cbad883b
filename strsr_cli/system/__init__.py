"""The room of the system: this machine, this process, its disk, its terminal; it knows no image and no model."""
