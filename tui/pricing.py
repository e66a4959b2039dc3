"""Prices a model's settings beside the screen: the newest question is answered, those it overtook are dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from textual.message import Message

from localknobs.engine import LoadSettings
from localknobs.fit.advice import Adviser, Candidate, advise
from localknobs.fit.bill import Bill
from localknobs.fit.machine import this_machine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import read_headers
from localknobs.knobs import Value
from localknobs.tui.bridge import as_ours


@dataclass
class Priced(Message):
    """A bill came.

    Args:
        path: The model it is of.
        values: The loading knobs it is for.
        bill: The bill; None when there can be none.
        trouble: Why there is none.
    """

    path: Path
    values: Mapping[str, Value]
    bill: Bill | None
    trouble: str = ""


@dataclass
class Advised(Message):
    """It is known what to do about a bill.

    Args:
        path: The model it is of.
        verdict: See `fit.advice.Verdict`.
        text: What to do, in words.
    """

    path: Path
    verdict: str
    text: str


class PriceTeller:
    """Answers from a thread of its own; the pricing itself is done by a warm child process.

    Args:
        post: Takes `Priced` and `Advised` messages from any thread.
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._asked = threading.Condition()
        self._question: tuple[Path, Mapping[str, Value]] | None = None
        self._closed = False
        threading.Thread(target=self._answer, daemon=True).start()

    def ask(self, path: Path, values: Mapping[str, Value]) -> None:
        """Price a model with these loading knobs; a question that waits is forgotten."""
        with self._asked:
            self._question = (path, dict(values))
            self._asked.notify()

    def close(self) -> None:
        """End the thread and the child; may be called twice."""
        with self._asked:
            self._closed = True
            self._asked.notify()

    def _answer(self) -> None:
        machine = this_machine()
        with Planning() as planning:
            pricer: Pricer | None = None
            priced: Path | None = None
            while question := self._next():
                path, values = question
                try:
                    if path != priced or pricer is None:
                        pricer, priced = Pricer(read_headers(path), machine, planning=planning), path
                    settings = LoadSettings(model=path, **values)  # type: ignore[arg-type]
                    bill = pricer.price(settings)
                    self._post(Priced(path, values, bill))
                    if bill.refusal or self._question:
                        continue
                    header = pricer.headers[0]
                    size = sum(one.tensor_bytes for one in pricer.headers)
                    row = Adviser(pricer, replace(settings, n_ctx=bill.context)).row(
                        Candidate(header.quant, size, path, pricer)
                    )
                    self._post(Advised(path, row.verdict, advise([row], machine, bill.context).reason))
                except Exception as error:  # also an unforeseen one: the next question is answered all the same
                    self._post(Priced(path, values, None, str(as_ours(error, "pricing the model"))))

    def _next(self) -> tuple[Path, Mapping[str, Value]] | None:
        with self._asked:
            while self._question is None and not self._closed:
                self._asked.wait()
            question, self._question = self._question, None
            return None if self._closed else question
