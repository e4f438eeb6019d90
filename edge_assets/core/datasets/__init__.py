"""Data sets of any size: samples that stream, what is kept of them, and arrays in files read and written in parts."""
