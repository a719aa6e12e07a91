"""Settings of the commands, one module for each command.

Help and errors are answered from here at once: nothing in this folder imports torch, or what takes as long, which
`tests/cli/test_start.py` tests. What a command does is in the module of `deepzero_sim/cli/` that its `COMMANDS` names.
"""
