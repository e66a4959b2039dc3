"""The one HTTP client: nothing else in localknobs opens a socket. huggingface_hub is made to use it as well.

The token goes to the hub's own host and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from localknobs import version
from localknobs.errors import HubFailure, LocalknobsError, NotFound
from localknobs.hub.offline import is_set, refuse_offline
from localknobs.hub.spec import endpoint

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

CONNECT_S = 10.0
_LOCK = threading.Lock()
_CLIENT: httpx2.Client | None = None
_SHARING = threading.Lock()
_IS_SHARED = False


def client() -> httpx2.Client:
    """Return the client, made on first use.

    Raises:
        Offline: offline work is asked for.
        HubFailure: the proxy that the environment names cannot be used.
    """
    global _CLIENT
    refuse_offline("This")
    with _LOCK:
        if _CLIENT is None or _CLIENT.is_closed:  # huggingface_hub closes it after some errors
            _CLIENT = _make_client()
        return _CLIENT


def _make_client() -> httpx2.Client:
    import httpx2  # 0.1 s

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log addresses, signatures included
    try:
        return httpx2.Client(
            event_hooks={"request": [lambda _request: refuse_offline("This")]},
            follow_redirects=True,  # of a renamed repository; to another host without the token
            headers={"User-Agent": f"localknobs/{version()}"},
            timeout=httpx2.Timeout(read_timeout_s(), connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16),
        )
    except (ImportError, ValueError) as error:
        raise HubFailure(f"The proxy cannot be used: {error}", "Check HTTPS_PROXY and ALL_PROXY.") from None


def read_timeout_s() -> float:
    """Return after how many silent seconds a connection is given up: `HF_HUB_DOWNLOAD_TIMEOUT`, 10 by default."""
    with contextlib.suppress(ValueError):
        return max(0.1, float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")))
    return 10.0


def api() -> HfApi:
    """Return huggingface_hub's interface, through our client, with neither telemetry nor an update check.

    Raises:
        Offline: offline work is asked for.
    """
    refuse_offline("This")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # also where it was imported before
    constants.HF_HUB_OFFLINE = False  # read once at import; whether we are offline was looked up just now
    global _IS_SHARED
    with _SHARING:
        if not _IS_SHARED:
            huggingface_hub.set_client_factory(client)
            _IS_SHARED = True
    return huggingface_hub.HfApi(
        endpoint(), token=token() or False, library_name="localknobs", library_version=version()
    )


def token() -> str | None:
    """Return the user's token as huggingface_hub finds it: `HF_TOKEN`, `HF_TOKEN_PATH`, the file of its log-in.

    Raises:
        HubFailure: it cannot be one.
    """
    if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None
    from huggingface_hub import get_token

    secret = get_token()
    if secret and not re.fullmatch(r"[!-~]+", secret):  # a header could not hold it, and the error would show it
        raise HubFailure("The token for the hub holds characters that no token has", "Copy it again into HF_TOKEN.")
    return secret


def origin_of(url: str) -> tuple[str, str]:
    """Return what makes two addresses the same server: scheme, and host with port."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def headers_for(url: str) -> dict[str, str]:
    """Return the headers of a request: the token only for the hub itself."""
    headers = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes
    if origin_of(url) == origin_of(endpoint()) and (secret := token()):
        headers["Authorization"] = f"Bearer {secret}"
    return headers


# ---- what went wrong, in a line -------------------------------------------------------------------


def failure(error: Exception, what: str) -> LocalknobsError:
    """Return the error a user should see.

    Args:
        error: What the connection or huggingface_hub raised.
        what: What was asked for: a repository, or a file in it.
    """
    import httpx2

    if isinstance(error, LocalknobsError):
        return error
    response = getattr(error, "response", None)
    if isinstance(response, httpx2.Response):
        return refusal(response, what)
    if isinstance(error, httpx2.TransportError):
        return HubFailure(f"There is no connection to {_host_of(error)}: {reason_of(error)}", _CONNECTION_HINT)
    if isinstance(error, ValueError):
        return HubFailure(f"The hub's answer about {what} cannot be read", "Check HF_ENDPOINT, or try again later.")
    return HubFailure(f"The hub could not be asked about {what}: {type(error).__name__}", _CONNECTION_HINT)


_CONNECTION_HINT = "Check the network, HTTPS_PROXY and HF_ENDPOINT, then run the same command again."


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in a few words that hold no address and no secret."""
    name, text = type(error).__name__, str(error)
    known = {
        "Name or service not known": "its name is not known", "Temporary failure in name": "its name is not known",
        "nodename nor servname": "its name is not known", "refused": "it refuses connections",
        "CERTIFICATE": "its certificate is not trusted", "unreachable": "the network cannot be reached",
    }  # fmt: skip
    for sign, words in known.items():
        if sign in text:
            return words
    if "Timeout" in name:
        return "it does not answer"
    if name in ("RemoteProtocolError", "ReadError", "WriteError"):
        return "the connection broke off"
    return "the proxy refuses" if name == "ProxyError" else name


def _host_of(error: Exception) -> str:
    try:
        return str(error.request.url.host)  # type: ignore[attr-defined]
    except (RuntimeError, AttributeError):
        return urlsplit(endpoint()).hostname or "the hub"


def refusal(response: httpx2.Response, what: str) -> LocalknobsError:
    """Return the error that an answer of the hub means.

    Args:
        response: An answer with a status of 400 or more.
        what: What was asked for.
    """
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message", "")
    who = "Your token" if token() else "Without a token you"
    page = f"{endpoint()}/{'/'.join(what.split(':')[0].split('/')[:2])}"  # of the repository, also for a file in it
    if code == "GatedRepo":
        return HubFailure(
            f"{what} is gated: its authors want your consent first",
            f"Accept their terms at {page}, then set HF_TOKEN to a token of that account.",
        )
    if code == "RevisionNotFound":
        return NotFound(f"{what} has no such revision", "Check --revision: a branch, a tag or a commit.")
    if code == "EntryNotFound":
        return NotFound(f"There is no {what} on the hub", "`localknobs pull org/repo --dry-run` lists what there is.")
    if "disabled" in said:
        return HubFailure(f"{what} was disabled by the hub", "Find another repository of the model.")
    if status == 401 and "Invalid" in said:
        return HubFailure("The hub does not know your token", "Set HF_TOKEN to a valid one, or unset it.")
    if status in (401, 404) or code == "RepoNotFound":
        return NotFound(
            f"There is no {what} on the hub, or it is private",
            "Check the name (`localknobs search`); for a private one set HF_TOKEN.",
        )
    if status == 403:
        return HubFailure(f"{who} may not read {what}", f"See {page}, and check the token's permissions.")
    if status == 429:
        return HubFailure("The hub asks for fewer requests", "Wait some minutes; a token (HF_TOKEN) raises the limit.")
    return HubFailure(f"The hub answered {status} about {what}", "Try again later; what was fetched is kept.")
