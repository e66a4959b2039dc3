"""What is remembered of a measurement: for `fit`, whoever took it."""

from __future__ import annotations

from datetime import UTC, datetime

from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import Header
from localknobs.hardware import processor_name
from localknobs.knobs import Value
from localknobs.measured_speeds import MeasuredSpeed


def speed_record(
    header: Header,
    settings: LoadSettings,
    *,
    threads: int,
    devices: tuple[str, ...],
    size_bytes: int,
    parameters: int,
    prompt: tuple[int, float] = (0, 0.0),
    generated: tuple[int, float] = (0, 0.0),
) -> MeasuredSpeed:
    """Return a record of how fast a model ran just now.

    Args:
        header: Of its file.
        settings: How it was loaded.
        threads: CPU threads it ran with.
        devices: What held its layers.
        size_bytes: Of its tensors.
        parameters: Their number.
        prompt: Tokens of the prompt that was read, and how many a second; 0 when that was not measured.
        generated: The same of tokens that were computed one by one.
    """
    return MeasuredSpeed(
        model=str(settings.model),
        size_bytes=size_bytes,
        architecture=header.architecture,
        quant=header.quant,
        parameters=parameters,
        settings={"threads": threads, **_turned(settings)},
        devices=devices,
        processor=processor_name(),
        prompt_tokens=prompt[0],
        prompt_tokens_per_s=round(prompt[1], 3),
        generated_tokens=generated[0],
        generation_tokens_per_s=round(generated[1], 3),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _turned(settings: LoadSettings) -> dict[str, Value]:
    """Return the loading knobs that are not at their defaults, but for those of one run."""
    own = LoadSettings(model=settings.model)
    names = (name for name in LoadSettings.__slots__ if name not in ("model", "n_ctx", "threads"))
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(own, name)}
