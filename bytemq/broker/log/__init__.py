"""The log of a partition as its owner sees it: order, offsets, producers, what readers may see.

Owns: assigning offsets and producer sequences, deciding what is a duplicate, the high watermark and the last stable
offset, answering offset questions, retention decisions. The rules live in pure modules (`state`, `producer_state`,
`leader_epochs`, `retention`); `partition` is the thin shell that joins them to storage.

Must not: know the wire format of requests, sockets, metadata keys, or how and where storage keeps bytes.
"""
