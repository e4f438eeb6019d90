"""CoreML: packages, weight compression, and an evaluator of their programs for where CoreML is missing."""
