"""Drafting of one loaded model: which drafters it has, whether it can take back tokens, whose tokens match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from localknobs.engine.binding import lib
from localknobs.engine.cache import TokenCache
from localknobs.engine.checks import plan_context
from localknobs.engine.draft_policy import DraftPolicy
from localknobs.engine.drafters import Drafter, ModelDrafter, NgramDrafter
from localknobs.engine.llama import LoadedModel
from localknobs.engine.settings import LoadSettings
from localknobs.engine.speculation import SpeculativeSteps, Tally
from localknobs.engine.steps import PlainSteps, Steps
from localknobs.engine.threads import AdaptiveThreads
from localknobs.errors import BadValue, LocalknobsError, Unsupported
from localknobs.gguf_info import check_is_model, read_header
from localknobs.library import find_model

MOST_DIFFERENCE = 128
"""Tokens that two vocabularies may differ by at their ends, where unused ones are (common/speculative.cpp)."""
FIRST_COMPARED = 5
"""Token from which on the texts must be the same; those before are markers that are named differently."""


class Drafting:
    """What drafts for one model; kept from answer to answer, as what it measured is.

    Args:
        model: The model that writes.
        draft: The loaded draft model, None for none.
        settings: Their drafting fields count.
        stopped: Whether the present answer is being stopped.

    Raises:
        BadValue: a draft model is asked for, and none was loaded.
        Unsupported: drafts are asked for, and the model cannot take tokens back.
    """

    def __init__(
        self, model: LoadedModel, draft: LoadedModel | None, settings: LoadSettings, stopped: Callable[[], bool]
    ) -> None:
        self._model = model
        self._draft = draft
        self._stopped = stopped
        self.note = ""
        self.use(settings)

    def use(self, settings: LoadSettings) -> None:
        """Take other drafting settings, from the next answer on; what was measured is forgotten."""
        wish = settings.draft
        self.note = ""
        if wish == "model" and not self._draft:
            raise BadValue("--draft model needs a draft model", "Name a small model with the same tokens: -md FILE.")
        if wish != "none" and (reason := why_not(self._model)):
            if wish != "auto":
                raise Unsupported(reason, "Leave --draft out, or use --draft auto, which goes without here.")
            self.note = f"{reason}; answers are written without drafts."
            wish = "none"
        drafters: list[Drafter] = []
        if wish in ("ngram", "auto"):
            drafters.append(NgramDrafter(settings.draft_ngram))
        if wish in ("model", "auto") and self._draft:
            # A prompt is read at the speed of the weights: a first guess, until it was seen.
            guess = 1e-10 * int(lib.llama_model_n_params(self._draft.pointer))
            drafters.append(ModelDrafter(self._draft, settings.draft_p_min, guess, self._stopped))
        self._drafters = tuple(drafters)
        shortest = min(settings.draft_min, settings.draft_max)
        self.policy = DraftPolicy(settings.draft_max, shortest, measured=wish == "auto")

    def set_threads(self, one: int, many: int) -> None:
        """Set the CPU threads of the draft model."""
        if self._draft:
            self._draft.set_threads(one, many)

    def steps(self, cache: TokenCache, threads: AdaptiveThreads, tally: Tally) -> Steps:
        """Return the steps of one answer, which count their guesses in `tally`."""
        if not self._drafters:
            return PlainSteps(cache, threads)
        return SpeculativeSteps(cache, threads, self._drafters, self.policy, tally)


def why_not(model: LoadedModel) -> str:
    """Return why drafts are impossible with a model, empty when they are possible."""
    architecture = model.metadata("general.architecture") or "This architecture"
    if lib.llama_model_is_recurrent(model.pointer) or lib.llama_model_is_hybrid(model.pointer):
        return f"{architecture} keeps a recurrent state, from which a wrong guess cannot be taken back"
    if lib.llama_model_has_encoder(model.pointer) or not lib.llama_model_has_decoder(model.pointer):
        return f"{architecture} is not a model that only writes on, and drafts are for those"
    return ""


def load_draft(
    model: LoadedModel,
    settings: LoadSettings,
    threads: int,
    *,
    use_extra_bufts: bool,
    probe: Callable[[LoadedModel], None],
) -> LoadedModel:
    """Load the draft model of the settings beside a model that is loaded.

    Args:
        model: The model that writes.
        settings: Its settings, which name the draft.
        threads: CPU threads.
        use_extra_bufts: As of the model.
        probe: Computes something with it, where a crash is understood.

    Raises:
        NotFound, BadFile: the file is missing, damaged or no model.
        NotEnough: its context does not fit beside the model's.
        Unsupported: its tokens are others.
    """
    header = read_header(find_model(settings.model_draft))
    check_is_model(header)
    own = LoadSettings(
        model=Path(header.path), n_ctx=model.context_size, n_gpu_layers=settings.n_gpu_layers_draft,
        n_batch=settings.n_batch, n_ubatch=settings.n_ubatch,
    )  # fmt: skip
    plan_context(header, own)
    draft = LoadedModel(own, model.context_size, threads, use_extra_bufts, lambda _done: None)
    try:
        check_same_tokens(model, draft, header.path.name)
        if reason := why_not(draft):
            raise Unsupported(f"{header.path.name} cannot draft: {reason}", "Use another draft model.")
        probe(draft)
    except LocalknobsError:
        draft.close()
        raise
    return draft


def check_same_tokens(model: LoadedModel, draft: LoadedModel, name: str) -> None:
    """Check that a draft's tokens mean the same as a model's.

    Raises:
        Unsupported: they do not; the message says where they part.

    Source: common/speculative.cpp, common_speculative_are_compatible.
    """
    hint = "A draft must have the tokenizer of the model: take a smaller model of the same family."
    ours, theirs = model.vocabulary, draft.vocabulary

    def refuse(why: str) -> Unsupported:
        return Unsupported(f"{name} cannot draft for this model: {why}", hint)

    if lib.llama_vocab_type(ours) != lib.llama_vocab_type(theirs):
        raise refuse("its tokenizer is of another kind")
    for what, adds, which in (
        ("begin", lib.llama_vocab_get_add_bos, lib.llama_vocab_bos),
        ("end", lib.llama_vocab_get_add_eos, lib.llama_vocab_eos),
    ):
        if adds(ours) != adds(theirs) or (adds(ours) and which(ours) != which(theirs)):
            raise refuse(f"its texts have another {what} token")
    sizes = model.vocabulary_size, draft.vocabulary_size
    if abs(sizes[0] - sizes[1]) > MOST_DIFFERENCE:
        raise refuse(f"it has {sizes[1]:,} tokens, and the model {sizes[0]:,}")
    text = lib.llama_vocab_get_text
    for token in range(FIRST_COMPARED, min(sizes)):
        if text(ours, token) != text(theirs, token):
            raise refuse(
                f"token {token} is {draft.token_text(token)!r} there and {model.token_text(token)!r} in the model"
            )
