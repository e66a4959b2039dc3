"""How each program lays out its models on disk; one reader a layout, and nothing is ever written."""
