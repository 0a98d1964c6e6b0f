"""Who gives an order."""

import getpass
import os
import socket


def operator() -> str:
    """Who is at the keyboard, for histories: user@host; uid-N@host for a user without a name, as
    containers have them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
