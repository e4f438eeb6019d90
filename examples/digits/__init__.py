"""Images: a small CNN for scikit-learn's handwritten digits."""
