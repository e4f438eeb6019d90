"""A speaker encoder with published weights, as a streaming model: one frame of sound and the LSTM's state a step.

The weights are the file `resemblyzer/pretrained.pt` of Resemblyzer 0.1.4, Apache-2.0 licence, (c) Resemble AI, which
`python -m examples.voices.fetch` takes from the package's wheel; it is not part of this repository. The voices are
synthesised.
"""
