"""pyarrow within the limits of a worker process: imported by whatever uses it there.

Owns: how many threads it may have. A worker has a low priority, and that is no licence to take every core; and each
thread's stack counts as memory that may be used.
"""

import pyarrow as pa

pa.set_cpu_count(1)
pa.set_io_thread_count(1)
