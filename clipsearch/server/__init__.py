"""A resident search server on the loopback interface, and the client through which the command line asks it.

`client` and `entry` are light, for a query from the shell; everything else is loaded by `clipsearch serve`.
"""
