"""The command line: one module per command, each with its own options, help and examples.

Must not: hold logic that a server or another program could need, or import anything heavy before a command runs.
"""
