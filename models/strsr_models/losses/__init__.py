"""Losses: functions of (pred, target), one idea a file."""
