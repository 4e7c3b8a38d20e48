"""The subcommands of `reticent`, one module each.

A module has `add_parser(subparsers)`, which declares the command and sets `run` on it:
`run(arguments) -> exit code`. It imports at its top only what starts quickly (numpy and rich); the
emulator, the compiled engine, gateware and torch are imported where they are used.
"""
