"""strsr fft-inspect: spectra of images, measured, printed and drawn."""
