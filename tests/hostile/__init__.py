"""Files as nobody would want to meet them, all made by code, and what must become of each."""
