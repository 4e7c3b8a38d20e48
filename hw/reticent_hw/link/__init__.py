"""The board's end of the byte link: `reticent.link.protocol` in gateware."""
