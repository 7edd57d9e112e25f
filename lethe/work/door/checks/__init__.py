"""One file, one check: `check(plan)` yields findings. What stands here is discovered; nothing lists it.

STAGE says when it is made: 0 reads request and data, 1 divides the data and makes the tasks, 2 needs them."""
