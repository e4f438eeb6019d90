"""Devices: how hardware that is not this machine is reached, recognised, leased and asked.

inventory      the user's devices.yaml, as data
packing        the agent: one self-contained file, made of `agent/` and of the modules that it shares with the product
transport      how a Python process is started on a device: over SSH, here, or on an emulated instruction set
connection     one running agent: requests and answers, files sent by content, what its errors mean
reach          which devices answer now, and whether they are what they claim to be
lease          one measurement at a time on a device, whoever asks
readiness      whether a device may be measured now: temperature, load, free memory and disk
session        an artifact that is open on a device: the same session that the runtimes have here
browser        a browser that opened a link: what it is, and its measurement (`browser_lease`, `browser_server`)
emulators      instruction sets that no device at hand has: what is emulated, and `installing` of it
"""
