"""Where the tree is. Not in conftest.py: several folders have one, and `import conftest` finds any of them."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
