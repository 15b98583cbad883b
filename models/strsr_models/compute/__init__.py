"""Where networks compute, in which precision, and what waits meanwhile."""
