"""The colours of pictures: what networks see of them, and the profiles and numbers that say what they are."""
