"""Segments: their format, making and reading them, writing behind into local ones."""
