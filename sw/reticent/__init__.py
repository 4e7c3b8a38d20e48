"""Reticent: neural networks that stay silent until something changes, in software and hardware."""

__version__ = "0.1.0"
