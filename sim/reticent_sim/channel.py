"""The byte channel to a simulated board in this process."""

from __future__ import annotations

from .board import SimBoard

__all__ = ["SimChannel"]


class SimChannel:
    """Bytes to and from a simulated board, without a serial port between.

    Time-outs are the board's time, not the computer's: waiting for an answer that will not come
    takes no longer than it takes the board to fall silent.
    """

    def __init__(self, board: SimBoard) -> None:
        self.board = board
        self.name = "the simulated board"
        self.seconds_a_byte = 10 / board.baud

    def send(self, data: bytes) -> None:
        """Put bytes on the way to the board."""
        self.board.send(data)

    def receive(self, timeout: float) -> bytes:
        """Run the board until it has sent something and is done, or falls silent."""
        return self.board.run(max(1, int(timeout * self.board.clock)))

    def time(self) -> float:
        """Seconds of the board."""
        return self.board.cycles / self.board.clock

    def discard(self) -> None:
        """Forget what the board sent, and what it is still sending."""
        while self.receive(1.0):
            pass

    def reopen(self) -> None:
        """It is never closed."""

    def close(self) -> None:
        """Free the board."""
        self.board.close()
