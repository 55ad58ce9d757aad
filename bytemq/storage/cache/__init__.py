"""What was read from a slow store and may be wanted again: bounded, and lost at any time without harm."""
