"""A look at the tensors of llama.cpp's computation while it runs, in the parts of the program that need one."""

from __future__ import annotations

from localknobs.engine.binding import lib
from localknobs.ggml_library import check_layout


class GraphWatch:
    """Asks for tensors and looks at them; `callback` goes into the context.

    What goes wrong is kept in `failure`: C cannot take an exception, and after a no llama.cpp would compute no further
    and return the last call's numbers. So the computation goes on, unseen, and its results are to be thrown away.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._checked = False
        self.callback = lib.ggml_backend_sched_eval_callback(self.on_tensor)

    def on_tensor(self, pointer: int, ask: bool, _user: object) -> bool:
        """Say whether a tensor is wanted, or look at it once it is computed (ggml-backend.h)."""
        if self.failure:
            return not ask
        try:
            if ask:
                return self._wants(pointer)
            self._take(pointer)
        except BaseException as failure:  # whatever it is
            self.failure = failure
        return True

    def _wants(self, pointer: int) -> bool:
        """Return whether to look at a tensor when it is computed."""
        raise NotImplementedError

    def _take(self, pointer: int) -> None:
        """Look at a computed tensor; not only at wanted ones."""
        raise NotImplementedError

    def _check_layout(self, *pointers: int) -> None:
        """Check once that tensors lie in memory as this program believes; raises as `check_layout`."""
        if not self._checked:
            for pointer in pointers:
                check_layout(pointer)
            self._checked = True
