"""What the tasks of the questions' plans compute: one file a task, named in plans/tasks.py."""
