"""`gnnsoup bench`: time and memory of this package's path over PyTorch Geometric's own, cell by cell."""
