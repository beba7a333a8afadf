"""``python -m examples.copy_task``."""

from examples.copy_task.main import main

main()
