"""The paths of the server: which there are, and what each does with the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Any

from localknobs import version
from localknobs.errors import LocalknobsError
from localknobs.knobs import KNOBS
from localknobs.serve.answering import Answering, while_there
from localknobs.serve.asgi import Receive, Scope, Send, json_object, json_value, send_bytes, send_json
from localknobs.serve.desk import Desk
from localknobs.serve.embeddings import embeddings_reply, texts_of
from localknobs.serve.fields import switch
from localknobs.serve.questions import chat_question, text_question
from localknobs.serve.refused import Refused, refusal_of
from localknobs.serve.replies import Reply
from localknobs.serve.scales import scales_of

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


class Paths:
    """Answers each path there is; an ASGI application that raises `Refused`.

    Args:
        desk: The model.
        names: What the model is called: the first in replies, any of them in requests.
    """

    def __init__(self, desk: Desk, names: Sequence[str]) -> None:
        self._desk = desk
        self._names = tuple(names)
        self._began = int(time())
        openai: dict[str, dict[str, Answer]] = {
            "/models": {"GET": self.models},
            "/chat/completions": {"POST": self.chat},
            "/completions": {"POST": self.text},
            "/embeddings": {"POST": self.embeddings},
            "/health": {"GET": self.health},
        }
        self._paths: dict[str, dict[str, Answer]] = {
            **{f"/v1{path}": methods for path, methods in openai.items()},
            "/props": {"GET": self.props},
            "/tokenize": {"POST": self.tokenize},
            "/detokenize": {"POST": self.detokenize},
            "/lora-adapters": {"GET": self.adapters, "POST": self.scale_adapters},
            "/metrics": {"GET": self.metrics},
            **openai,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises `Refused` where it gets an error."""
        methods = self._paths.get(scope["path"])
        if methods is None:
            there = [path for path in self._paths if path.startswith("/v1") or f"/v1{path}" not in self._paths]
            raise Refused(404, f"There is no path {scope['path']}. There are {', '.join(there)}.", code="no_such_path")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in methods:
            raise Refused(405, f"{scope['path']} takes {' and '.join(methods)}.", code="wrong_method")
        await methods[method](scope, receive, send)

    async def health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Say that the model is loaded: before that nothing listens."""
        await send_json(send, 200, {"status": "ok"})

    async def models(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """List the one model, under each of its names."""
        info = self._desk.engine.info
        meta = {
            "n_vocab": info.vocabulary_size, "n_ctx": info.context_size, "n_ctx_train": info.context_trained,
            "n_params": info.parameters, "size": info.size_bytes, "description": info.description,
        }  # fmt: skip
        about = {"object": "model", "created": self._began, "owned_by": "localknobs", "meta": meta}
        await send_json(send, 200, {"object": "list", "data": [{"id": name, **about} for name in self._names]})

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a conversation."""
        body = await self._body(scope, receive)
        question = chat_question(body, self._desk.engine.info.context_size, len(self._desk.adapters))
        reply = Reply(self._names[0], chat=True, scored=question.likeliest >= 0)
        await Answering(self._desk, question, reply)(scope, receive, send)

    async def text(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Continue a text as it is."""
        body = await self._body(scope, receive)
        question = text_question(body, self._desk.engine.info.context_size, len(self._desk.adapters))
        reply = Reply(self._names[0], chat=False, scored=question.likeliest >= 0, echo=question.echo)
        await Answering(self._desk, question, reply)(scope, receive, send)

    async def embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return texts as vectors, each in a turn of its own: others need not wait for a long list."""
        body = await self._body(scope, receive)
        asked = texts_of(body)

        async def work() -> None:
            vectors, tokens = [], 0
            for at, one in enumerate(asked.inputs):
                try:
                    vector, count = await self._desk.embed(one)
                except LocalknobsError as error:
                    raise refusal_of(error, f"input[{at}]") from None
                vectors.append(vector)
                tokens += count
            scope["said"] = f"{len(vectors)} vectors of {tokens:,} tokens"
            await send_json(
                send, 200,
                embeddings_reply(self._names[0], vectors, tokens, encoded=asked.encoded, notes=self._vector_notes()),
            )  # fmt: skip

        await while_there(work(), scope, receive)

    def _vector_notes(self) -> tuple[str, ...]:
        if self._desk.engine.info.pooling:
            return ()
        return (
            "This model was not made for vectors: they are the mean of its last hidden states, and similar texts may "
            "be told apart badly. Models such as Qwen3-Embedding are made for it.",
        )

    async def _body(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """Return the body of a question to this model."""
        body = await json_object(scope, receive)
        name = body.get("model")
        if name is not None and not isinstance(name, str):
            raise Refused(400, "`model` must be a text.", param="model")
        if name and name not in self._names:
            raise Refused(
                404, f"The model {name[:200]!r} is not served here, but {' and '.join(self._names)}. Leave `model` "
                "out, or give the model this name: --alias.", param="model", code="model_not_found",
            )  # fmt: skip
        return body

    async def props(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Tell what the model and the defaults of requests are, with llama-server's keys."""
        engine, defaults = self._desk.engine, dict(self._desk.defaults)
        defaults["logit_bias"] = KNOBS["logit_bias"].show(defaults["logit_bias"])  # JSON has no infinity
        await send_json(send, 200, {
            "default_generation_settings": {"n_ctx": engine.info.context_size, "params": defaults},
            "total_slots": 1, "model_alias": self._names[0], "model_path": engine.info.path,
            "chat_template": engine.info.chat_template or "", "modalities": {"vision": False, "audio": False},
            "context_full": engine.settings.context_full, "build_info": f"localknobs {version()}",
        })  # fmt: skip

    async def tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return the tokens of a text, as llama-server does."""
        body = await json_object(scope, receive)
        text = body.get("content")
        if not isinstance(text, str):
            raise Refused(400, "`content` must be a text.", param="content")
        begin, special = switch(body, "add_special"), switch(body, "parse_special", default=True)
        with_pieces = switch(body, "with_pieces")
        tokens = await self._desk.ask(lambda engine: engine.tokenize(text, special=special, begin=begin))
        if not with_pieces:
            await send_json(send, 200, {"tokens": tokens})
            return
        spellings = await self._desk.ask(lambda engine: engine.spellings(tokens))
        pairs = zip(tokens, map(_piece, spellings), strict=True)
        await send_json(send, 200, {"tokens": [{"id": token, "piece": piece} for token, piece in pairs]})

    async def detokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return the text of tokens, as llama-server does."""
        body = await json_object(scope, receive)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise Refused(400, "`tokens` must be a list of whole numbers.", param="tokens")
        try:
            spellings = await self._desk.ask(lambda engine: engine.spellings(tokens))
        except ValueError as error:
            raise refusal_of(error, "tokens") from None
        await send_json(send, 200, {"content": b"".join(spellings).decode("utf-8", "replace")})

    async def adapters(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """List the adapters with the scales of requests that name none, as llama-server does."""
        rows = zip(self._desk.adapters, self._desk.scales, strict=True)
        await send_json(send, 200, [{"id": at, "path": name, "scale": scale} for at, (name, scale) in enumerate(rows)])

    async def scale_adapters(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Change these scales from the next request on."""
        self._desk.scales = scales_of(await json_value(scope, receive), len(self._desk.adapters), None)
        await send_json(send, 200, {"success": True})

    async def metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Tell sums and the line, as Prometheus reads them, under llama-server's names."""
        desk = self._desk
        rows = (
            ("counter", "prompt_tokens_total", "Tokens of prompts that were read.", desk.prompt_tokens),
            ("counter", "prompt_seconds_total", "Seconds of reading them.", round(desk.prompt_s, 3)),
            ("counter", "tokens_predicted_total", "Tokens that were written.", desk.predicted_tokens),
            ("counter", "tokens_predicted_seconds_total", "Seconds of writing them.", round(desk.predicted_s, 3)),
            ("gauge", "requests_processing", "Requests that are being answered.", int(desk.busy)),
            ("gauge", "requests_deferred", "Requests that wait.", desk.waiting),
        )
        lines = [
            f"# HELP llamacpp:{name} {text}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for kind, name, text, value in rows
        ]
        await send_bytes(send, 200, "".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")


def _piece(spelling: bytes) -> str | list[int]:
    """Return a token's text; its bytes where these are a part of a character."""
    try:
        return spelling.decode("utf-8")
    except UnicodeDecodeError:
        return list(spelling)
