"""Who may answer for a browser that is being measured, and the one request that waits for its answer.

The link's token lets one browser claim the device. Each claim gives a lease, a secret that every later call carries: a
second browser is refused, and a page that was opened anew in the same browser takes the place of the one before. A
request is answered once, by the lease that it was handed to; what comes later or twice is refused in a sentence.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from edge_assets.core import shapes
from edge_assets.errors import EdgeAssetsError, printable

TOKEN_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is taken for another when it is typed on a phone
TOKEN_LENGTH = 14  # 69 bits, which nobody guesses over a network within a lease
SILENCE = 60  # seconds without a sign of life, after which a person is told; a page is busy for some
PART_BYTES = 4 * 2**20
MOST_PARTS = 512  # of one answer
# of user agents, in this order, because each names those that came before it: pattern, browser, engine
USER_AGENTS = (
    (r"(?:CriOS)/([\d.]+)", "Chrome", "webkit"),  # every browser of an iPhone has its WebKit
    (r"(?:FxiOS)/([\d.]+)", "Firefox", "webkit"),
    (r"(?:EdgiOS)/([\d.]+)", "Edge", "webkit"),
    (r"Firefox/([\d.]+)", "Firefox", "firefox"),
    (r"Edg(?:A)?/([\d.]+)", "Edge", "chromium"),
    (r"OPR/([\d.]+)", "Opera", "chromium"),
    (r"SamsungBrowser/([\d.]+)", "Samsung Internet", "chromium"),
    (r"(?:Headless)?Chrome/([\d.]+)", "Chrome", "chromium"),
    (r"Version/([\d.]+).*Safari/", "Safari or WebKitGTK", "webkit"),
)


@dataclass(frozen=True)
class Adapter:
    """What computes WebGPU in a browser."""

    name: str
    is_software: bool


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a page says of its browser when it claims the device."""

    user_agent: str
    platform: str
    threads: int  # logical cores, as far as the browser tells
    memory_gib: float | None  # rounded by the browser; None: it does not tell
    is_isolated: bool  # cross-origin isolated: threads, and a fine clock
    is_secure: bool  # a secure context
    has_touch: bool
    adapter: Adapter | None
    clock_ms: float  # the smallest step of its clock

    @property
    def engine(self) -> str:
        """The engine as targets name it: chromium, firefox, webkit, or unknown."""
        return self._known()[2]

    @property
    def browser(self) -> str:
        return self._known()[0]

    @property
    def version(self) -> str:
        return self._known()[1]

    @property
    def system(self) -> str:
        """The platform in printable characters."""
        if self.platform == "MacIntel" and self.has_touch:
            return "iPad"  # which says that it is a Mac
        return printable(self.platform, 60) or "an unknown system"

    @property
    def title(self) -> str:
        """Browser, version and system in words."""
        return f"{self.browser} {self.version} on {self.system}"

    def _known(self) -> tuple[str, str, str]:
        for pattern, browser, engine in USER_AGENTS:
            found = re.search(pattern, self.user_agent)
            if found:
                return browser, found[1], engine
        return "an unknown browser", "of unknown version", "unknown"


class Refusal(Exception):
    """A call that is not served: an HTTP status, and a sentence for the person before the browser."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class DeviceGone(EdgeAssetsError):
    """A browser that did not come, or that did not answer before its lease ended."""


class PageFault(EdgeAssetsError):
    """What a function of the page threw, in its words."""


class Reopened(Exception):
    """The page was opened anew, so nothing that it had loaded is there."""


@dataclass
class Request:
    """One call of a function of the page."""

    number: int
    function: str
    arguments: Sequence[object]
    parts: dict[int, bytes] = field(default_factory=dict)
    expected: int | None = None  # parts; None: none has come

    @property
    def is_answered(self) -> bool:
        return self.expected is not None and len(self.parts) == self.expected


def new_token() -> str:
    """A token that can be typed."""
    return "".join(secrets.choice(TOKEN_LETTERS) for _ in range(TOKEN_LENGTH))


class Lease:
    """One browser's turn, of so many seconds. Safe for several threads: one calls, others serve the page."""

    def __init__(self, seconds: float, log: Callable[[str], None]) -> None:
        self.token = new_token()
        self.log = log
        self.openings = 0  # how often the page was opened
        self.browser: Described | None = None
        self._deadline = time.monotonic() + seconds
        self._ends = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        self._lease: str | None = None
        self._request: Request | None = None
        self._number = 0
        self._heard = time.monotonic()
        self._is_silent = False
        self._changed = Condition()

    # --- for the page's calls ----------------------------------------------------------------------------

    def demand_token(self, token: str) -> None:
        """Raises Refusal for any other than the link's."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            raise Refusal(403, "This is not the link of a measurement that is going on.")

    def claim(self, given: object, former: str | None) -> str:
        """The lease for a page that says what it is; `former` is the one that its browser had before, if any."""
        described = shapes.read(Described, given)
        with self._changed:
            self._demand_time()
            if self.browser is not None:
                self._demand_the_same(described, former)
            self._lease = secrets.token_urlsafe(32)
            self.browser = described
            self.openings += 1
            self._hear()
            self._changed.notify_all()
            return self._lease

    def _demand_the_same(self, described: Described, former: str | None) -> None:
        assert self.browser is not None
        is_former = secrets.compare_digest((former or "").encode(), (self._lease or "").encode())
        if not is_former or described.user_agent != self.browser.user_agent:
            raise Refusal(
                409,
                f"This link works once, and was opened already, in {self.browser.title}. "
                f"Run `edge-assets devices browser` again for a new one.",
            )

    def work(self, lease: str, seconds: float) -> Request | None:
        """The request that waits for an answer; None if none came within that time."""
        patience = time.monotonic() + seconds
        with self._changed:
            while True:
                self._demand_lease(lease)
                self._hear()
                if self._request is not None and not self._request.is_answered:
                    return self._request
                remaining = patience - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(min(remaining, 1.0))

    def answer(self, lease: str, number: int, part: int, parts: int, body: bytes) -> None:
        """One part of the answer to a request."""
        with self._changed:
            self._demand_lease(lease)
            self._hear()
            request = self._request
            if request is None or request.number != number or request.is_answered:
                raise Refusal(409, f"Request {number} was answered already, or is not waited for any more.")
            if not 0 <= part < parts <= MOST_PARTS or request.expected not in (None, parts):
                raise Refusal(400, f"Request {number} has no part {part} of {parts}.")
            if part in request.parts:
                raise Refusal(409, f"Part {part} of the answer to request {number} came already.")
            request.expected = parts
            request.parts[part] = body
            self._changed.notify_all()

    def alive(self, lease: str) -> None:
        """A sign of life."""
        with self._changed:
            self._demand_lease(lease)
            self._hear()

    def _demand_lease(self, lease: str) -> None:
        self._demand_time()
        if self._lease is None or not secrets.compare_digest(lease.encode(), self._lease.encode()):
            raise Refusal(403, "Another page was opened with this link since: this one is not waited for any more.")

    def _demand_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise Refusal(410, f"The time for this measurement ended at {self._ends}.")

    def _hear(self) -> None:
        self._heard = time.monotonic()
        if self._is_silent:
            self._is_silent = False
            self.log("the browser is back")

    # --- for who measures --------------------------------------------------------------------------------

    def wait_for_browser(self) -> Described:
        """What claimed the device. Raises DeviceGone where nothing did in time."""
        with self._changed:
            while self.browser is None:
                remaining = self._deadline - time.monotonic()
                if remaining <= 0:
                    raise DeviceGone(f"no browser opened the link until {self._ends}")
                self._changed.wait(min(remaining, 1.0))
            return self.browser

    def call(self, function: str, arguments: Sequence[object], opening: int) -> Any:
        """What a function of the page gives.

        Raises Reopened where the page is not that opening's any more, PageFault for what the function throws, and
        DeviceGone where the lease ends first.
        """
        with self._changed:
            self._number += 1
            request = Request(self._number, function, arguments)
            self._request = request
            self._heard = time.monotonic()
            self._changed.notify_all()
            try:
                while not request.is_answered:
                    self._wait(request, opening)
            finally:
                self._request = None
        text = b"".join(request.parts[part] for part in sorted(request.parts))
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise PageFault(f"the page's answer to '{function}' is no JSON") from None
        if not isinstance(found, dict) or "value" not in found:
            reason = found.get("error", "nothing") if isinstance(found, dict) else "nothing"
            raise PageFault(printable(reason, 500))
        return found["value"]

    def _wait(self, request: Request, opening: int) -> None:
        if self.openings != opening:
            raise Reopened
        now = time.monotonic()
        if now > self._deadline:
            raise DeviceGone(
                f"the browser did not answer '{request.function}' before its time ended at {self._ends}: "
                f"run the command again, and keep the page open and in front"
            )
        if now - self._heard > SILENCE and not self._is_silent:
            self._is_silent = True
            self.log(
                f"the browser is silent since {SILENCE} s: the tab may be closed or the phone asleep. Open the link "
                f"again in the same browser until {self._ends}, and it goes on"
            )
        self._changed.wait(1.0)

    def end(self, sentence: str, seconds: float = 5) -> None:
        """Tell the page that it is done, if it still asks within that time."""
        with self._changed:
            if self._lease is None:
                return
            self._number += 1
            self._request = request = Request(self._number, "end", [sentence])
            self._changed.notify_all()
            patience = time.monotonic() + seconds
            while not request.expected and time.monotonic() < patience:
                self._changed.wait(0.2)
            self._request = None
