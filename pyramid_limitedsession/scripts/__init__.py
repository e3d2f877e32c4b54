"""The pls-* commands, one module each.

Each parses its arguments, starts the application of an ini file, makes one
call to what is below, and prints a line. What they share is in `console`.
"""
