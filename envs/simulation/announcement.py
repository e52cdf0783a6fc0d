"""How an environment says which task is in force; a name of its own, as ``task`` is also a name that users give."""

from typing import Final

TASK: Final = "plasticity/task"  # key of an info, a whole number
ANNOUNCES: Final = "plasticity/announces_tasks"  # key of an environment's metadata, whether its infos hold ``TASK``
