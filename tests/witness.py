"""Records every attempt to connect of a Python process and its children. `from witness import WITNESS`."""

WITNESS = """
import os, sys

def witness(event, arguments, log=os.environ.get("WITNESS_LOG")):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") and log:
        address = arguments[1] if event == "socket.connect" else arguments[0]
        if not (event == "socket.connect" and isinstance(address, (str, bytes))):  # a Unix socket goes nowhere
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {event} {address!r}\\n")
    if event == "subprocess.Popen" and log:
        with open(log + ".children", "a") as file:
            file.write(f"{arguments[1]!r}\\n")

sys.addaudithook(witness)
"""
"""Text of a sitecustomize.py; the variable WITNESS_LOG names the file it writes to, and `.children` beside it."""
