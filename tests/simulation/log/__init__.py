"""The log of one partition in virtual time: the small world, hundreds of schedules for one of a whole broker."""
