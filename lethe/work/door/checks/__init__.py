"""One file, one check: `check(plan)` yields findings. What stands here is discovered; nothing lists it.

TASKS says whether it needs the tasks of the request, which can only be made when its ids and data are right."""
