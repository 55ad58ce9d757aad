"""Record batches (message format v2): reading and checking headers, building, walking and compressing records.

Pure: no clock, no randomness, no I/O. The layout is Kafka's (protocol guide, "Record Batch"; KIP-98, KIP-283).
"""
