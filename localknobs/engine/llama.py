"""One loaded model and its context over llama.cpp's low-level API; only the worker process imports this.

Everything that touches a C pointer is here, or in `sampling.py` and `chain.py`.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from localknobs.engine.binding import lib
from localknobs.engine.parameters import llama_parameters
from localknobs.engine.settings import LoadSettings
from localknobs.engine.templates import ChatTemplate, TemplateRenderer
from localknobs.errors import BadFile, BadValue, NotEnough
from localknobs.gguf_info import read_header

__all__ = ["ABORTED", "NO_CACHE_SLOT", "LoadedModel", "lib", "send_log_to_stderr"]

ABORTED = 2
"""What `llama_decode` returns when the abort callback asked for it (llama.h)."""
NO_CACHE_SLOT = 1
"""What `llama_decode` returns when the key-value cache has no room for the batch (llama.h)."""

_kept_callbacks: list[Any] = []  # a collected CFUNCTYPE object that C still calls is a crash


_DEBUG, _ERROR, _CONTINUED = 1, 4, 5  # ggml_log_level of ggml.h
_errors: list[str] = []
"""What llama.cpp logged as errors; the first one of a failed load says why it failed."""
_WEIGHT_BUFFER = re.compile(rb"(\S+) model buffer size")
_weight_buffers: list[str] = []
"""Names of the buffers that hold weights, which only the log tells."""


def send_log_to_stderr() -> None:
    """Write llama.cpp's log, undecoded, to file descriptor 2, where the parent collects it."""
    shown = [_DEBUG]  # level of the line that a continuation belongs to

    @lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
    def write(level: int, text: bytes, user_data: Any) -> None:
        if level == _CONTINUED:
            level = shown[0]
        shown[0] = level
        if level != _DEBUG:
            os.write(2, text)
            if level == _ERROR:
                _errors.append(text.decode("utf-8", "replace").strip())
            if found := _WEIGHT_BUFFER.search(text):
                _weight_buffers.append(found[1].decode("utf-8", "replace"))

    _kept_callbacks.append(write)
    lib.llama_log_set(write, ctypes.c_void_p(0))


def _device_of(buffer: str) -> str:
    """Return the device of a buffer: `CUDA0` is one; `CPU_Mapped`, `CPU_REPACK`, `CUDA_Host` are the processor's."""
    name = buffer.removesuffix("_Mapped").removesuffix("_Private")
    return "CPU" if name.startswith("CPU") or name.endswith("_Host") else name


class LoadedModel:
    """A model, its vocabulary and one context.

    Args:
        settings: Which file, and how.
        context_size: Tokens.
        threads: CPU threads.
        use_extra_bufts: Whether llama.cpp may keep repacked weights.
        on_progress: Called with 0 to 1 while the weights are read.
        eval_callback: A `ggml_backend_sched_eval_callback` that looks at every computed tensor; it must not raise,
            since that would leave the rest uncomputed without an error. The caller keeps it alive.

    Attributes:
        contexts_made: How many there were; tells a new one from the last, which may lie at the same address.

    Raises:
        BadFile: llama.cpp cannot read the file.
        NotEnough: the context does not fit into memory.
    """

    def __init__(
        self,
        settings: LoadSettings,
        context_size: int,
        threads: int,
        use_extra_bufts: bool,
        on_progress: Callable[[float], None],
        eval_callback: Any = None,
    ) -> None:
        lib.llama_backend_init()
        header = read_header(settings.model)
        parameters = llama_parameters(settings, header, context_size, threads=threads, use_extra_bufts=use_extra_bufts)
        self._parameters = parameters  # llama.cpp reads what they point to while it loads
        self.pointer: Any = None
        self.context: Any = None
        self.contexts_made = 0
        self._cancelled = False

        @lib.llama_progress_callback  # type: ignore[attr-defined,untyped-decorator,unused-ignore]
        def progress(done: float, user_data: Any) -> bool:
            on_progress(done)
            return not self._cancelled

        self._progress = progress
        parameters.model.progress_callback = progress
        self.pointer = lib.llama_model_load_from_file(os.fsencode(settings.model), parameters.model)
        if not self.pointer:
            reason = _errors[0].rpartition("error loading model: ")[2] if _errors else "it does not say why"
            raise BadFile(
                f"llama.cpp cannot load {settings.model}: {reason}",
                "A damaged download must be fetched again; a new architecture needs a newer llama.cpp.",
            )
        self.vocabulary: Any = lib.llama_model_get_vocab(self.pointer)
        self.vocabulary_size: int = lib.llama_vocab_n_tokens(self.vocabulary)
        self._open_context(eval_callback)
        self.suppressed_tokens = self._suppressed()
        self.devices = tuple(dict.fromkeys(map(_device_of, _weight_buffers)))
        self.before_decode: Callable[[], None] | None = None
        self._one = (lib.llama_token * 1)()
        self._batch_of_one = lib.llama_batch_get_one(self._one, 1)
        self._pieces: dict[int, bytes | None] = {}
        self._buffer = ctypes.create_string_buffer(256)

    def _open_context(self, eval_callback: Any) -> None:
        parameters = self._parameters.context
        if eval_callback:
            parameters.cb_eval = eval_callback
        self.context = lib.llama_init_from_model(self.pointer, parameters)
        if not self.context:
            self.close()
            raise NotEnough(
                f"llama.cpp could not make a context of {parameters.n_ctx} tokens", "Use a smaller context: -c 4096."
            )
        self.contexts_made += 1
        # llama.cpp may change what was asked for: read back what the context really has.
        self.context_size: int = lib.llama_n_ctx(self.context)
        self.batch_size: int = lib.llama_n_batch(self.context)
        self.memory: Any = lib.llama_get_memory(self.context)

    def watch(self, eval_callback: Any) -> None:
        """Make the context anew, empty, without flash attention, so that a callback sees the scores of attention."""
        parameters = self._parameters.context
        lib.llama_free(self.context)
        self.context = None
        parameters.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._open_context(eval_callback)

    def decode(self, tokens: Sequence[int]) -> int:
        """Compute tokens that follow what the cache holds; logits are kept for the last one.

        Args:
            tokens: At most `batch_size` of them.

        Returns:
            llama.cpp's code: 0 done, 1 no room in the cache, 2 aborted, below 0 failed.
        """
        if self.before_decode:
            self.before_decode()
        if len(tokens) == 1:
            self._one[0] = tokens[0]
            return int(lib.llama_decode(self.context, self._batch_of_one))
        self._check_batch(len(tokens))
        array = (lib.llama_token * len(tokens))(*tokens)
        return int(lib.llama_decode(self.context, lib.llama_batch_get_one(array, len(tokens))))

    def decode_all(self, tokens: Sequence[int]) -> int:
        """Compute tokens that follow what the cache holds; logits are kept for every one of them.

        Also the way to see whole activations: where few logits are wanted, the last layer computes few rows.
        """
        count = len(tokens)
        self._check_batch(count)
        if self.before_decode:
            self.before_decode()
        array = (lib.llama_token * count)(*tokens)
        batch = lib.llama_batch_get_one(array, count)
        wanted = (ctypes.c_int8 * count)(*[1] * count)
        batch.logits = ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8))
        return int(lib.llama_decode(self.context, batch))

    def _check_batch(self, count: int) -> None:
        if count > self.batch_size:  # llama.cpp would end the process
            raise BadValue(
                f"{count:,} tokens in one batch, and n_batch (-b) is {self.batch_size:,}", "Load with a larger -b."
            )

    def _suppressed(self) -> tuple[int, ...]:
        """Return the tokens that the file says must never be drawn."""
        count = ctypes.c_int32(0)
        tokens = lib.llama_vocab_get_suppress_tokens(self.vocabulary, ctypes.byref(count))
        return tuple(int(tokens[index]) for index in range(count.value))

    def keep(self, count: int) -> bool:
        """Drop everything after the first `count` tokens from the cache; False where the model cannot."""
        return bool(lib.llama_memory_seq_rm(self.memory, 0, count, -1))

    def drop_last(self, count: int) -> bool:
        """Take the last tokens out of the cache again; False where the model cannot."""
        return bool(lib.llama_memory_seq_rm(self.memory, 0, self.tokens_in_cache() - count, -1))

    def drop_range(self, begin: int, end: int) -> bool:
        """Drop the positions of a range from the cache; False where the model cannot."""
        return bool(lib.llama_memory_seq_rm(self.memory, 0, begin, end))

    def move(self, begin: int, by: int) -> None:
        """Move the positions from one on; done with the next decode. Only where `can_shift` says so, else it aborts."""
        lib.llama_memory_seq_add(self.memory, 0, begin, -1, by)

    @property
    def parameters(self) -> int:
        """How many there are in all tensors."""
        return int(lib.llama_model_n_params(self.pointer))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(lib.llama_model_size(self.pointer))

    @property
    def can_shift(self) -> bool:
        """Whether llama.cpp can move positions of this cache at all; not whether the numbers stay right."""
        return bool(lib.llama_memory_can_shift(self.memory))

    def window_reaches(self, position: int) -> bool:
        """Whether layers with a sliding window hold all that a token at this position looks back at."""
        window = int(lib.llama_model_n_swa(self.pointer))
        return not window or int(lib.llama_memory_seq_pos_min(self.memory, 0)) <= max(0, position - window)

    def clear(self) -> None:
        """Empty the cache."""
        lib.llama_memory_clear(self.memory, True)

    def tokens_in_cache(self) -> int:
        """Return how many tokens the cache really holds."""
        return int(lib.llama_memory_seq_pos_max(self.memory, 0)) + 1

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of a text, with no begin token added; control tokens are read only if `special`."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        while True:
            array = (lib.llama_token * room)()
            count = int(lib.llama_tokenize(self.vocabulary, data, len(data), array, room, False, special))
            if count >= 0:
                return list(array[:count])
            room = -count

    def piece(self, token: int) -> bytes | None:
        """Return the bytes a token stands for, none for a control token; None when it ends the answer."""
        try:
            return self._pieces[token]
        except KeyError:
            ends = lib.llama_vocab_is_eog(self.vocabulary, token)
            return self._pieces.setdefault(token, None if ends else self._read_piece(token))

    def spelling(self, token: int) -> bytes:
        """Return the bytes a token stands for; of a control token as the vocabulary spells it."""
        return self._read_piece(token, special=True)

    def _read_piece(self, token: int, special: bool = False) -> bytes:
        count = lib.llama_token_to_piece(self.vocabulary, token, self._buffer, len(self._buffer), 0, special)
        if count < 0:
            self._buffer = ctypes.create_string_buffer(-count)
            count = lib.llama_token_to_piece(self.vocabulary, token, self._buffer, -count, 0, special)
        return self._buffer.raw[:count]

    def token_text(self, token: int) -> str:
        """Return how the vocabulary spells a token; empty for none (a negative number)."""
        return "" if token < 0 else lib.llama_vocab_get_text(self.vocabulary, token).decode("utf-8", "replace")

    @property
    def begin_token(self) -> int:
        """The begin token that every text must start with; -1 where the model wants none."""
        return int(lib.llama_vocab_bos(self.vocabulary)) if lib.llama_vocab_get_add_bos(self.vocabulary) else -1

    @property
    def end_token(self) -> int:
        """The end token that every whole text ends with; -1 where the model wants none."""
        return int(lib.llama_vocab_eos(self.vocabulary)) if lib.llama_vocab_get_add_eos(self.vocabulary) else -1

    def reserved_texts(self, template: str | None) -> tuple[set[str], set[str]]:
        """Return the spellings that a user's text must not become, as control texts and added texts.

        Control texts are those of control tokens and the unknown token, which llama.cpp reads only where
        it is told to. Added texts are those of other added tokens that the template writes (some files
        list `<start_of_turn>` as such), which llama.cpp reads everywhere.
        """
        reserved = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        control, added = set(), set()
        for token in range(self.vocabulary_size):
            attributes = lib.llama_vocab_get_attr(self.vocabulary, token)
            if attributes & reserved:
                control.add(self.token_text(token))
            elif attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED and template:
                text = self.token_text(token)
                # Runs of spaces and the like are added tokens too, and harmless.
                if len(text) > 2 and any(map(str.isalpha, text)) and text in template:
                    added.add(text)
        return control - {""}, added

    def metadata(self, key: str) -> str | None:
        """Return a value of the file's header as text, None when there is none."""
        buffer = ctypes.create_string_buffer(1024)
        count = lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return None if count < 0 else buffer.value.decode("utf-8", "replace")

    def chat_template(self) -> str | None:
        """Return the file's chat template, None when there is none."""
        found = lib.llama_model_chat_template(self.pointer, None)
        return found.decode("utf-8", "replace") if found else None

    def template_with(self, renderer: TemplateRenderer) -> ChatTemplate:
        """Return the way from messages to tokens of this model.

        Args:
            renderer: Holds the process that renders.
        """
        source = self.chat_template()
        control_texts, added_texts = self.reserved_texts(source)
        return ChatTemplate(
            source,
            tokenize=self.tokenize,
            control_texts=control_texts,
            added_texts=added_texts,
            begin=self.token_text(int(lib.llama_vocab_bos(self.vocabulary))),
            end=self.token_text(int(lib.llama_vocab_eos(self.vocabulary))),
            begin_token=self.begin_token,
            renderer=renderer,
        )

    @property
    def prompt_threads(self) -> int:
        """CPU threads that compute many tokens."""
        return int(lib.llama_n_threads_batch(self.context))

    def set_threads(self, generation: int, prompt: int) -> None:
        """Set CPU threads for one token and for many."""
        lib.llama_set_n_threads(self.context, generation, prompt)

    def set_abort(self, callback: Any) -> None:
        """Let the callback interrupt a computation (CPU only); None takes it away, as it costs time on small models."""
        lib.llama_set_abort_callback(self.context, callback or lib.ggml_abort_callback(0), ctypes.c_void_p(0))

    def close(self) -> None:
        """Free the context, then the model; may be called twice."""
        if self.context:
            lib.llama_free(self.context)
            self.context = None
        if self.pointer:
            lib.llama_model_free(self.pointer)
            self.pointer = None
