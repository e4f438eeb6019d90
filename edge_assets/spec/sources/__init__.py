"""Ready-made sources of samples that stream: a dataset function returns one of them.

Each is a small object that gives samples as dicts of arrays, and names the files that it reads.
"""
