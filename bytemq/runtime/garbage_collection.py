"""Python's cyclic garbage collector, kept out of the way of requests.

Owns its settings for a node. Almost nothing on the data path is part of a cycle; what there is (tasks, exceptions) is
little, so that collecting seldom costs little memory, and each full collection skips what was alive at the start.
"""

import gc

YOUNG_OBJECTS = 20_000
YOUNG_PER_MIDDLE = 5
"""A middle collection looks at no more than 100,000 objects: about 20 ms in which nobody is served."""
MIDDLE_PER_FULL = 500


def calm() -> None:
    """Call first of all, before a node is imported: that makes much that stays, and little that is to be collected."""
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PER_MIDDLE, MIDDLE_PER_FULL)


def settle() -> None:
    """Call before anybody is served, who would feel it: what is alive now is not looked at again. A node that joins
    anew calls it anew, and what its last session has left goes.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
