"""Flags of the verbs; what makes them of knob rows lies deeper, as a side of an A/B chat is written with them too."""

from localknobs.flags import Formatter, Parser, add_knob_flags, chosen, default_text

__all__ = ["Formatter", "Parser", "add_knob_flags", "chosen", "default_text"]
