"""localknobs: every knob you can turn on a model after it is trained, on your own machine.

Importing this package loads nothing heavy: no llama.cpp, no torch, no Textual.
"""


def version() -> str:
    """Return the installed version; written once, in pyproject.toml."""
    from importlib.metadata import version as installed_version  # 8 ms: only when asked for

    return installed_version("localknobs")
