"""The page of a run that one wants to show: before and after, with what became of each picture."""
