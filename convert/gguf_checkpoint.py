"""What a GGUF file says of its model as a checkpoint's folder: config and tokenizer, through transformers' own reading.

For a process of its own: transformers is loaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localknobs.convert.child import reason_of
from localknobs.errors import Unsupported
from localknobs.gguf_info import read_header
from localknobs.jobs import partial_folder

_NAME_IT = "Name the checkpoint it was made of, for its config and tokenizer: --checkpoint FOLDER."


def write_checkpoint_of(file: Path, folder: Path) -> None:
    """Write the config and the tokenizer of a GGUF file into a folder, which must not exist or be empty.

    Raises:
        Unsupported: transformers cannot read them from the file, or the file scales its rotary positions in a way that
            would be lost.
    """
    from transformers import AutoConfig, AutoTokenizer

    header = read_header(file)
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    if scaling not in ("", "none"):
        raise Unsupported(f"{file} scales its rotary positions ({scaling}), which cannot be read from it", _NAME_IT)
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        config: Any = AutoConfig.from_pretrained(file.parent, **where)
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **where)
        config.architectures = [_class_of(config)]
    except Exception as error:  # the library raises all kinds
        raise Unsupported(
            f"transformers cannot read the config and tokenizer of {file}: {reason_of(error)}", _NAME_IT
        ) from None
    with partial_folder(folder) as beside:
        config.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


def _class_of(config: Any) -> str:
    from transformers import AutoModelForCausalLM

    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return str(kind.__name__)
