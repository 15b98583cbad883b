"""What stands beside pixels in a file, read within bounds and made true of what is written."""
