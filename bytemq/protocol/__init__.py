"""The Kafka wire protocol as pure code: bytes in, values out. No sockets, no clock, no broker state.

Start with `primitives` (Kafka's types), then `schema` and `codec` (messages as data), `framing` (headers), and the two
hand-written codecs of the data path, `produce` and `fetch`. `messages` holds one generated module per API.
"""
