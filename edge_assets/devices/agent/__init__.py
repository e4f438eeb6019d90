"""What runs on a device: Python 3.9 or later, NumPy and the runtime, nothing else of the product.

`packing` puts these modules into one file, with the modules of the product that they import, which therefore import
nothing but the standard library, NumPy, a runtime, and one another. Their names there are their names here.
"""
