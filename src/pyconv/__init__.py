"""Pyramidal convolution for PyTorch (Duta et al. 2020, arXiv:2006.11538)."""
