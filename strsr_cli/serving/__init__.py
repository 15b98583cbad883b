"""The page of `strsr serve`: pictures are sent to it by a browser or by curl, and come back enlarged."""
