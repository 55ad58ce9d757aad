"""Heavy work behind the log: cleaning compacted topics, and whatever else rewrites history, in a process of its own."""
