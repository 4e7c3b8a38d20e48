"""Reticent's gateware: a delta-neuron accelerator in Amaranth."""
