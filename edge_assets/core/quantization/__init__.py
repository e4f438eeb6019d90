"""One module per quantization scheme. Recipe names say all, for example
`int8_static_qdq_u8s8_perchannel_minmax`: precision, scheme, representation, activation and weight types,
weight granularity, calibration method.
"""
