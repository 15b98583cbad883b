"""Devices that networks compute on, their precision, and what waits meanwhile."""
