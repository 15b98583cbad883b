"""strsr fft-inspect: spectra of images, measured, told and drawn."""
