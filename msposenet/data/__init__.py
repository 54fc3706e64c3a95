"""Records, merging, augmentation, loading, packing and synthetic people."""
