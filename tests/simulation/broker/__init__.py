"""A whole broker in virtual time: the real code from the request's bytes down to the log, over a store and a metadata
store that fail within their contract, with clients that behave as Kafka's do.

`loop` decides what runs when, and lets a process die between any two of its steps; `network` and `metadata_store` are
what surrounds a broker; `node` puts its parts together as `bytemq/node/` does; `producers`, `members`, `processors`
and `readers` are the clients; `history` is the checker, which knows nothing of the implementation; `run` is what every
run consists of, and `world` is this one.
"""
