"""A compacted log in virtual time: the real storage over a store that loses power, the real planner and cleaner beside
a writer and readers, killed between any two steps.
"""
