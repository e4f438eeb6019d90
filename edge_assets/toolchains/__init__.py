"""One folder per toolchain: its sessions, its conversion, its quantization schemes, all it needs to be one of many.

A scheme is one module. Recipe names say all, for example `int8_static_qdq_u8s8_perchannel_minmax`: precision, scheme,
representation, activation and weight types, weight granularity, calibration method.
"""
