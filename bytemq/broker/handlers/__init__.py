"""One module per Kafka API, named as the API in snake case. What it exports and how it is called: broker/dispatch.py.

A handler turns one request into one response. It must not touch sockets or encode; of connections it knows its context.
"""
