"""Complete designs for boards: pins, clocks, memories, tools. `reticent.boards` has the names."""
