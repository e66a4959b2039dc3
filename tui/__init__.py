"""The terminal screens: Textual only, no arithmetic, no model code."""
