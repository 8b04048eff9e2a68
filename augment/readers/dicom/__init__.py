"""Read DICOM: classic slices, Enhanced multi-frame objects and Siemens mosaics."""
