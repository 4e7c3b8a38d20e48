"""The byte link to a board: protocol, frame code, client, transports. See docs/protocol.md."""
