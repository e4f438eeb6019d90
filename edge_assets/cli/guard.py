"""Who may speak to the web servers: an ASGI application around Dagster's and MLflow's own.

Both listen on 127.0.0.1, and whatever runs on the machine can connect there: every page that its user's browser
shows, and every other account. A page can send requests that it may not read (an image, a form, a `no-cors` fetch, a
WebSocket), and can read what it likes once its own host name resolves to 127.0.0.1. Dagster's server alone executes a
mutation from any of them. So a request is answered only if it

- names this server in `Host`: a loopback name with the server's port, or a name that the operator allowed;
- does not come from another site: a foreign `Origin` or `Sec-Fetch-Site` is refused, except for following a link;
- carries the token or the cookie that was given for it, where the operator set one;
- and, for Dagster, changes something only by a body of `application/json`, which a browser sends to another site only
  after asking that site, and never by GET or through a WebSocket.
"""

import hashlib
import hmac
import html
import json
from dataclasses import dataclass
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
READING = ("GET", "HEAD", "OPTIONS")
SIGN_IN = "/edge-assets/sign-in"
FORM_BYTES = 4096
POLICY_VIOLATION = 1008  # of RFC 6455

PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>edge-assets: sign in</title>
<style>body{{font:16px system-ui;margin:15vh auto;max-width:26rem}}
input{{font:inherit;width:100%;margin:.5rem 0}}</style>
<h1>Sign in</h1><p>{message}</p>
<form method="post" action="{action}"><input type="hidden" name="next" value="{next}">
<label>Token <input type="password" name="token" autofocus autocomplete="current-password"></label>
<input type="submit" value="Sign in"></form>
<p><a href="{next}">I have signed in before</a></p></html>
"""
ONLY_ITSELF = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
PAGE_HEADERS = {
    "Content-Security-Policy": ONLY_ITSELF,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # without a referrer a browser sends the form with the origin null
}


@dataclass(frozen=True)
class Door:
    """What a server lets in."""

    port: int
    allowed_hosts: frozenset[str] = frozenset()  # besides the loopback names; with the port where it is not the usual
    token: str | None = None
    open_paths: frozenset[str] = frozenset()  # answered without the token: they say no more than that somebody is there

    def knows(self, host: str) -> bool:
        """Whether a `Host`, or the host of an `Origin`, is this server's own."""
        own = {f"{name}:{self.port}" for name in LOOPBACK}
        if self.port == 80:
            own.update(LOOPBACK)
        return host.lower() in own | self.allowed_hosts

    @property
    def cookie_name(self) -> str:
        """Cookies do not know ports: two installations on one machine must not overwrite each other's."""
        return f"edge_assets_{self._derived('name')[:8]}"

    @property
    def cookie_value(self) -> str:
        """What a browser keeps instead of the token."""
        return self._derived("session")

    def _derived(self, purpose: str) -> str:
        return hmac.new((self.token or "").encode(), purpose.encode(), hashlib.sha256).hexdigest()


class Guard:
    """An ASGI application that passes on what its door lets in, and answers 403 or 401 to the rest.

    `graphql`: the application executes GraphQL, and whatever it changes is asked for in JSON.
    """

    def __init__(self, app: ASGIApp, door: Door, graphql: bool) -> None:
        self.app = app
        self.door = door
        self.graphql = graphql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        answer = self._foreign(connection) or await self._unknown(connection, receive) or self._unsafe(connection)
        if answer is not None:
            await _answer(answer, scope, receive, send)
        elif scope["type"] == "websocket" and self.graphql:
            await self.app(scope, _without_mutations(receive, send), send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))

    # --- where it comes from -----------------------------------------------------------------------------

    def _foreign(self, connection: HTTPConnection) -> Response | None:
        hosts = connection.headers.getlist("host")
        if len(hosts) != 1 or not self.door.knows(hosts[0]):
            return self._refused(f"this server is not called {_shown(hosts)}", hosts)
        origins = connection.headers.getlist("origin")
        for origin in origins:
            scheme, _, host = origin.partition("://")
            if scheme not in ("http", "https") or not self.door.knows(host):
                return self._refused(f"the request comes from a page of {_shown([origin])}", [host])
        site = connection.headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not _follows_a_link(connection):
            return self._refused("the request comes from a page of another site", [])
        return None

    def _refused(self, why: str, hosts: list[str]) -> Response:
        named = next(iter(hosts), "") or "the name"
        remedy = f"open http://127.0.0.1:{self.door.port}, or add {_shown([named])} to EDGE_ASSETS_ALLOWED_HOSTS"
        text = f"refused: {why}. If you trust it, {remedy} and start `edge-assets serve` again."
        return PlainTextResponse(f"{text}\n", 403)

    # --- who it is ---------------------------------------------------------------------------------------

    async def _unknown(self, connection: HTTPConnection, receive: Receive) -> Response | None:
        """None if the request may come in. Otherwise the answer, which may be that it has signed in."""
        if self.door.token is None:
            return None
        scope = connection.scope
        method = None  # of a WebSocket
        if scope["type"] == "http":
            method = scope["method"]
        if method == "POST" and scope["path"] == SIGN_IN:
            return await self._sign_in(Request(scope, receive))
        if method == "GET" and "token" in connection.query_params:
            return self._token_in_address(connection)
        if self._is_signed_in(connection):
            return None
        return self._ask(connection)

    def _is_signed_in(self, connection: HTTPConnection) -> bool:
        scope = connection.scope
        if scope["type"] == "http" and scope["method"] in READING and scope["path"] in self.door.open_paths:
            return True
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        cookie = connection.cookies.get(self.door.cookie_name, "")
        return hmac.compare_digest(cookie.encode(), self.door.cookie_value.encode())

    def _ask(self, connection: HTTPConnection) -> Response:
        scope = connection.scope
        if scope["type"] == "http" and "text/html" in connection.headers.get("accept", ""):
            return self._form("This server asks for the token that `edge-assets serve` was started with.", _path(scope))
        text = "sign in first: send the token as `Authorization: Bearer ...`, or open the page in a browser"
        return PlainTextResponse(
            f"{text}\n",
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.door.token or "").encode())

    def _token_in_address(self, connection: HTTPConnection) -> Response:
        pairs = parse_qsl(connection.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        others = urlencode([(name, value) for name, value in pairs if name != "token"])
        address = _path({**connection.scope, "query_string": others.encode()})
        if not self._is_token(connection.query_params["token"]):
            return self._form("This is not the token.", address)
        return self._signed_in(connection, address)

    async def _sign_in(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM_BYTES:
                return PlainTextResponse("refused: this is no sign-in form\n", 413)
        form = parse_qs(body.decode("latin-1"))
        address = _local(form.get("next", ["/"])[0])
        if not self._is_token(form.get("token", [""])[0]):
            return self._form("This is not the token.", address)
        return self._signed_in(request, address)

    def _signed_in(self, connection: HTTPConnection, address: str) -> Response:
        response = RedirectResponse(
            address,
            status_code=303,
            headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
        )
        response.set_cookie(
            self.door.cookie_name,
            self.door.cookie_value,
            httponly=True,
            samesite="strict",
            secure=connection.url.scheme == "https",
        )
        return response

    def _form(self, message: str, address: str) -> Response:
        page = PAGE.format(
            message=html.escape(message),
            action=SIGN_IN,
            next=html.escape(address),
        )
        return HTMLResponse(page, status_code=401, headers=PAGE_HEADERS)

    # --- what it asks for --------------------------------------------------------------------------------

    def _unsafe(self, connection: HTTPConnection) -> Response | None:
        scope = connection.scope
        if not self.graphql or scope["type"] != "http":
            return None
        if any(_is_mutation(query) for query in connection.query_params.getlist("query")):
            return PlainTextResponse("refused: a mutation is sent as the body of a POST, not in the address\n", 403)
        kinds = [kind.partition(";")[0].strip().lower() for kind in connection.headers.getlist("content-type")]
        if scope["method"] not in READING and kinds != ["application/json"]:
            text = f"refused: {scope['method']} is taken with a body of application/json only, not of {_shown(kinds)}"
            return PlainTextResponse(f"{text}\n", 403)
        return None


def _follows_a_link(connection: HTTPConnection) -> bool:
    """A person went from another site's page to this one, in a window of its own: nothing is changed, nothing read."""
    if connection.scope["type"] != "http" or connection.scope["method"] not in ("GET", "HEAD"):
        return False
    headers = connection.headers
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _is_mutation(query: str) -> bool:
    """Whether a GraphQL document holds a mutation, or may: one nested too deep here may be read in another thread.

    What is no GraphQL is not executed either.
    """
    try:
        document = parse(query)
    except GraphQLError:
        return False
    except RecursionError:
        return True
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    return any(operation.operation is OperationType.MUTATION for operation in operations)


def _without_mutations(receive: Receive, send: Send) -> Receive:
    """A WebSocket's messages, of which the first mutation closes it."""

    async def checked() -> Message:
        message = await receive()
        if message["type"] != "websocket.receive" or not _is_mutation(_asked(message)):
            return message
        reason = "mutations are sent by POST"
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION, "reason": reason}

    return checked


def _asked(message: Message) -> str:
    """The query of a `start` or `subscribe` message; empty for others."""
    try:
        data: object = json.loads(message.get("text") or message.get("bytes") or "null")
    except (ValueError, RecursionError):
        return ""
    for name in ("payload", "query"):
        if not isinstance(data, dict):
            return ""
        data = data.get(name)
    if not isinstance(data, str):
        return ""
    return data


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send it, also in place of a WebSocket's handshake."""
    if scope["type"] == "http":
        await response(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await response(scope, receive, send)  # Starlette sends it as the answer to the handshake
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})


def _with_headers(send: Send) -> Send:
    """Answers that say that no other site may show them in a frame, where a click would be the user's."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("X-Frame-Options", "SAMEORIGIN")
        await send(message)

    return sending


def _path(scope: Scope) -> str:
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope["query_string"].decode("latin-1")
    path = raw.decode("latin-1").partition("?")[0]
    if query:
        path = f"{path}?{query}"
    return _local(path)


def _local(address: str) -> str:
    """An address below this server: two slashes at the start would lead to another one."""
    visible = "".join(character for character in address if " " < character <= "~")
    return "/" + visible.lstrip("/\\")


def _shown(values: list[str]) -> str:
    return ", ".join(value[:100] for value in values) or "nothing"
