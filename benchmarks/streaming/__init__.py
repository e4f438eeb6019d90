"""A set of images that does not fit in memory, against a loop written by hand."""
