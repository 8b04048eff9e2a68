"""The sub-commands, a module per group: each has `register(commands)`, and imports its dependencies when it is run."""
