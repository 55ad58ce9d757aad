"""Which partition of `__consumer_offsets` coordinates a group. Pure; the same sum as Kafka's, so that data can move."""

from __future__ import annotations


def java_string_hash(text: str) -> int:
    """Java's `String.hashCode`: signed 32 bits over the UTF-16 code units."""
    value = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            value = (31 * value + unit) & 0xFFFFFFFF
    else:
        utf16 = text.encode("utf-16-be", "surrogatepass")
        for position in range(0, len(utf16), 2):
            value = (31 * value + (utf16[position] << 8 | utf16[position + 1])) & 0xFFFFFFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


def partition_for(group_id: str, partition_count: int) -> int:
    """The index of the partition that holds the group: Kafka's `Utils.abs(hash) % count`, where abs clears the sign
    bit of the minimum only.
    """
    value = java_string_hash(group_id)
    return (0 if value == -0x8000_0000 else abs(value)) % partition_count
