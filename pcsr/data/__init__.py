"""From raw images to packed stores, training batches and test images."""
