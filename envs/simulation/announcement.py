"""How an environment announces the task in force; the key is special, because users may also use the name ``task``."""

from typing import Final

TASK: Final = "plasticity/task"  # key of an info, a whole number
ANNOUNCES: Final = "plasticity/announces_tasks"  # key of an environment's metadata, whether its infos hold ``TASK``
