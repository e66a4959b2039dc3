"""The command line: one file a verb. Importing this loads nothing but `sys`, so that `--help` is instant."""

import sys


def main() -> int:
    """Run `localknobs`; return the exit code."""
    from localknobs.cli.main import run

    return run(sys.argv[1:])
