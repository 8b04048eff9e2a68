"""The complex-valued U-Net, and its forms for sampling."""
