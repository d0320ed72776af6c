"""The kernels: one module a device, chosen by name in ``operator.py``."""
