"""The sub-commands, a module per group: each has `register(commands)`, and loads what it needs when it is run."""
