"""Run as a process of its own: llama.cpp's own converter over several checkpoints, told what their pre-tokenizer is.

That converter knows tokenizers by fingerprints of their tokens, so a tokenizer made in a test must be named to it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(source: str, jobs: list[dict[str, str]]) -> None:
    """Convert each checkpoint; `source` is a folder with llama.cpp's source."""
    sys.path.insert(0, source)
    import convert_hf_to_gguf
    from conversion.base import TextModel

    for job in jobs:
        name = job["pre"]
        TextModel.get_vocab_base_pre = lambda self, tokenizer, name=name: name
        # Its list of known tokens of merged models is kept on the class: a fresh model needs a fresh one.
        sys.argv = ["convert", job["folder"], "--outfile", job["out"], "--outtype", job["outtype"]]
        try:
            convert_hf_to_gguf.main()
        except (Exception, SystemExit) as error:
            Path(job["out"]).unlink(missing_ok=True)
            print(f"{job['folder']}: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
