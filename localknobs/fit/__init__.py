"""What a model takes, before it is loaded: planned by llama.cpp itself, without an allocation, for any machine.

For a screen that shows it live: `Pricer(headers, machine).price(settings)` is a `Bill`, in milliseconds after the
first; `machine.this_machine()` and `gguf_info.read_headers(path)` give what it needs.
"""
