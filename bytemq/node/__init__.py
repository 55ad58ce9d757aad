"""A whole node, from configs to a process that serves clients (`node.Node`). The one room that knows all others."""
