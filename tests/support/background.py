"""How a shell without job control starts what runs beside it: INT and QUIT are ignored, and so in all its children."""

BACKGROUND = ("env", "--ignore-signal=INT", "--ignore-signal=QUIT")
"""Words before a command. The program takes the place of ``env``: the process id is its own."""
