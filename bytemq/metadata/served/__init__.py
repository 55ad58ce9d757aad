"""The embedded store for several broker processes of one machine: their supervisor serves it on a Unix socket.

A session ends when the supervisor has seen its process die, and never by a clock.
"""
