"""Image files read into pixels, and pixels written into image files."""
