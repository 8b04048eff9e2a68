"""Read complex data: k-space and complex images of .npy, .mat, BART, ISMRMRD, CC-359 and twix files."""
