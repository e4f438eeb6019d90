"""A browser somewhere else, a phone's for example, as a device of the browser family.

It opens a link and stays: what it is asked, and what it answers, crosses by HTTP (`browser_lease`, `browser_server`).
The model runs there, through the bundle's own loader; parity, accuracy and latency are judged here, by the same code
as those of this machine's browsers.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_assets.core import shapes
from edge_assets.core.arranged import ArrangedSession, joined_queries, queries, steps_of
from edge_assets.core.benchmark.harness import Contestant, groups_of, interleave
from edge_assets.core.benchmark.queries import WARM_UP_SECONDS, WINDOW, is_steady
from edge_assets.core.benchmark.statistics import Mode
from edge_assets.core.evidence import Latency, Verified, WarmUp
from edge_assets.core.layout import Layout
from edge_assets.core.session import Feeds, Loadable, Session
from edge_assets.core.verify.evaluate import VerificationRequest, evaluate
from edge_assets.devices.browser_lease import Described, DeviceGone, Lease, PageFault, Reopened
from edge_assets.devices.browser_server import DeviceServer
from edge_assets.errors import EdgeAssetsError, Refused
from edge_assets.spec.tiers import Tier
from edge_assets.toolchains.web.ort_web import EncodedTensor, decode, encode

__all__ = ["BrowserDevice", "DeviceGone", "PageFault", "serve_browser_device"]

SLICE = 2.0  # seconds that a page times without a word
KEPT_BYTES = 8 * 2**20  # of the samples that queries cycle through, which cross once for each batch size
LONGEST_WARM_UP = 400  # queries, as on this machine
TOGETHER_BYTES = 256 * 2**20  # on disk, of models that a phone's tab holds at once
USUAL: Layout = {"inputs": {}, "outputs": {}, "states": {}}  # the batch comes first, and nothing is kept
COARSE = 20  # a median of fewer steps of the page's clock is rounded by it


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the loader says of a variant that it loaded there."""

    session_ms: float
    total_ms: float
    device: str
    threads: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Queries:
    """Times of queries in ms, and whether the page was in the background meanwhile."""

    ms: tuple[float, ...]
    was_hidden: bool


@dataclass(frozen=True, kw_only=True)
class BrowserVariant:
    """What is known of one variant in that browser. Of one that cannot run there `refused` says why."""

    sha256: str
    precision: str
    loaded: Loaded | None = None
    verified: Verified | None = None
    warm_up: WarmUp | None = None
    latency_ms: Mapping[str, Latency] | None = None  # by batch size
    not_timed: str | None = None
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class BrowserEvidence:
    """All variants of a cell in one browser, measured together."""

    tier: Tier = "device"
    model: str
    family: str
    checkpoint: str
    target: str
    matches_target: bool  # whether that browser is one that the target means
    browser: str  # in words
    engine: str
    described: Described
    execution_provider: str
    mode: str
    evaluated_samples: int
    measured_at: str  # UTC, ISO 8601
    remarks: tuple[str, ...]
    variants: Mapping[str, BrowserVariant] = field(default_factory=dict)


# --- the device ------------------------------------------------------------------------------------------


@contextmanager
def serve_browser_device(
    bundle: Path,
    *,
    seconds: float,
    log: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator["BrowserDevice"]:
    """A device for whatever opens its `link` within that time, for the rest of that time.

    `bundle` is the folder of a web bundle. Raises EdgeAssetsError where the address cannot be listened on.
    """
    lease = Lease(seconds, log)
    server = DeviceServer(lease, bundle, host, port, certificate)
    device = BrowserDevice(lease, server.link, log)
    try:
        yield device
    except BaseException:
        lease.end("The measurement was stopped. You can close this page.")
        raise
    else:
        lease.end("Done. Thank you: you can close this page.")
    finally:
        server.close()


class BrowserDevice:
    """The browser that opens `link`, once it did."""

    def __init__(self, lease: Lease, link: str, log: Callable[[str], None]) -> None:
        self.link = link
        self.log = log
        self._lease = lease
        self._opening = 0  # of the page, in which everything of `_state` is loaded
        self.kept_batch = 0  # samples of each query that it keeps
        self._state: dict[str, tuple[str, Sequence[object]]] = {}  # calls that bring a new page to where it was

    def wait(self) -> Described:
        """What the browser is. Raises DeviceGone where none opened the link in time."""
        described = self._lease.wait_for_browser()
        self._opening = self._lease.openings
        return described

    @property
    def described(self) -> Described:
        """What the browser that opened the link is."""
        assert self._lease.browser is not None, "wait comes first"
        return self._lease.browser

    def call(self, function: str, *arguments: object) -> Any:
        """What a function of the page gives; a page that was opened anew is brought to where it was first.

        Raises PageFault for what the function throws, DeviceGone where the browser does not answer in time.
        """
        while True:
            try:
                return self._lease.call(function, arguments, self._opening)
            except Reopened:
                self._restore()

    def _restore(self) -> None:
        while True:
            self._opening = self._lease.openings
            self.log(f"the page was opened anew: {len(self._state)} things are loaded again")
            try:
                for function, arguments in self._state.values():
                    self._lease.call(function, arguments, self._opening)
            except Reopened:
                continue
            return

    def load(self, variant: str, outputs: Sequence[str], provider: str, threads: int) -> "RemoteSession":
        """A variant of the bundle, loaded there. Raises PageFault in the loader's or the runtime's words."""
        arguments = (variant, provider, threads, list(outputs), variant)
        loaded = shapes.read(Loaded, self.call("openBundle", *arguments))
        self._state[variant] = ("openBundle", arguments)
        return RemoteSession(self, variant, loaded)

    def close(self, variant: str) -> None:
        """Free a variant there."""
        self._state.pop(variant, None)
        self.call("close", variant)

    def keep(self, feeds: Feeds, batch: int, layout: Layout = USUAL) -> None:
        """Send the samples that queries of so many cycle through when they are timed there: each's steps in turn."""
        steps = steps_of(feeds) if layout["states"] else None
        arguments = (encode(joined_queries(queries(feeds, batch, layout))), steps)
        self.call("keep", *arguments)
        self.kept_batch = batch
        self._state["queries"] = ("keep", arguments)


@dataclass(frozen=True)
class RemoteSession:
    """A variant that is loaded in the device's page. `load_ms` is the runtime's own loading."""

    device: BrowserDevice
    variant: str
    loaded: Loaded

    @property
    def load_ms(self) -> float:
        return self.loaded.session_ms

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name. Raises Refused with the runtime's words if it cannot run this graph."""
        return self._outputs("run", feeds)

    def run_steps(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs [steps, ...] for inputs [steps, ...], and the states after the last, which the page keeps."""
        return self._outputs("runSteps", feeds)

    def _outputs(self, function: str, feeds: Feeds) -> dict[str, np.ndarray]:
        try:
            outputs: dict[str, EncodedTensor] = self.device.call(function, self.variant, encode(feeds))
        except PageFault as fault:
            raise Refused(f"ONNX Runtime Web cannot run this model there: {fault}") from fault
        return {name: decode(tensor) for name, tensor in outputs.items()}

    # --- as a worker of the harness ------------------------------------------------------------------------

    def ask(self, command: str, seconds: float = 0, **request: object) -> dict[str, object]:
        """The answer to `warm_up` or `time`, as a worker process on this machine gives it."""
        batch, longest = request["batch"], request.get("longest", request.get("queries"))
        assert isinstance(batch, int)
        assert isinstance(longest, int)
        assert batch == self.device.kept_batch, "the queries that the page keeps come first"
        if command == "warm_up":
            return self._warm_up(longest)
        assert command == "time", command
        began = time.monotonic()
        times = self._times(longest, seconds)
        # what else its machine did, and how warm it is, no browser tells
        meanwhile = {"seconds": time.monotonic() - began, "waited": None, "stolen": None}
        return {"ms": times, "conditions": meanwhile}

    def _warm_up(self, longest: int) -> dict[str, object]:
        """Run until steady, as on this machine."""
        times: list[float] = []
        deadline = time.monotonic() + WARM_UP_SECONDS
        while not is_steady(times) and len(times) < longest and time.monotonic() < deadline:
            times += self._times(min(WINDOW, longest), WARM_UP_SECONDS)
        return {"queries": len(times), "steady": is_steady(times)}

    def _times(self, count: int, seconds: float) -> list[float]:
        """Milliseconds of so many queries, or of as many as fit into so many seconds of a page that is in front."""
        times: list[float] = []
        spent = 0.0
        was_told = False
        while len(times) < count and (not times or spent < seconds):
            wanted = min(SLICE, seconds - spent)
            answer = self.device.call("timeKept", self.variant, count - len(times), wanted)
            found = shapes.read(Queries, answer)
            if found.was_hidden:
                if not was_told:
                    self.device.log("the page is in the background, where browsers slow it down: bring it to the front")
                was_told = True
                time.sleep(1)
                continue
            times += found.ms
            spent += sum(found.ms) / 1000
            if not found.ms:
                raise PageFault("the page timed no query")
        return times


@dataclass(frozen=True)
class OnBrowser(Loadable):
    """Opened on the device, where it was loaded already."""

    session: RemoteSession | None = None

    def open(self, threads: int) -> Session:  # noqa: ARG002  # it was loaded with the device's
        """The session; who verifies does not close it."""
        assert self.session is not None
        if "layout" not in self.options:
            return self.session
        return ArrangedSession(self.session, self.options["layout"])


# --- measuring -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What is asked of a browser: the variants of a bundle, on what, and how long."""

    variants: Mapping[str, Contestant]  # each with how the artifact is opened on this machine
    precisions: Mapping[str, str]
    outputs: tuple[str, ...]
    execution_provider: str
    threads: int
    requests: Mapping[str, VerificationRequest]
    feeds: Feeds  # samples for queries
    mode: Mode
    batch_sizes: tuple[int, ...]


def measure(device: BrowserDevice, assignment: Assignment) -> tuple[dict[str, BrowserVariant], list[str]]:
    """Parity, accuracy and latency of each variant in the device's browser, and remarks on how they were taken.

    A variant that the browser cannot run is one that is refused; the others are measured without it. Raises
    EdgeAssetsError where WebGPU is asked for and the browser has no adapter, DeviceGone where the browser goes.
    """
    described = device.described
    untimed = _why_untimed(described, assignment.execution_provider)
    found: dict[str, BrowserVariant] = {}
    for name in assignment.variants:
        found[name] = _verified(device, assignment, name)
        if untimed and found[name].verified:
            found[name] = replace(found[name], not_timed=untimed)
    if untimed is None:
        running = [one for name, one in assignment.variants.items() if found[name].refused is None]
        for group in groups_of(running, TOGETHER_BYTES):
            _time_together(device, assignment, group, found)
    return found, _remarks(described, found)


def _why_untimed(described: Described, provider: str) -> str | None:
    """Why nothing is timed in that browser. Raises EdgeAssetsError where it cannot even be verified there."""
    if provider != "webgpu":
        return None
    if described.adapter is None:
        lack = "no WebGPU adapter"
        if not described.is_secure:
            lack = "no WebGPU here, which browsers have in a secure context alone: serve by HTTPS"
        raise EdgeAssetsError(f"{described.title} has {lack}")
    if described.adapter.is_software:
        return f"not measured: WebGPU runs on a software adapter there ({described.adapter.name})"
    return None


def _verified(device: BrowserDevice, assignment: Assignment, name: str) -> BrowserVariant:
    """One variant loaded, run on the samples, and freed again."""
    contestant = assignment.variants[name]
    known = BrowserVariant(sha256=contestant.sha256, precision=assignment.precisions[name])
    request = assignment.requests[name]
    device.log(f"verifying {name} on {request.every} samples")
    try:
        with _loaded(device, assignment, name) as session:
            own = contestant.loadable
            there = OnBrowser(own.runtime, own.path, own.options, session)
            verified = evaluate(replace(request, loadable=there), None, device.log)
    except (PageFault, Refused) as error:
        return replace(known, refused=str(error))
    return replace(known, loaded=session.loaded, verified=verified)


@contextmanager
def _loaded(device: BrowserDevice, assignment: Assignment, name: str) -> Iterator[RemoteSession]:
    session = device.load(name, assignment.outputs, assignment.execution_provider, assignment.threads)
    try:
        yield session
    except (PageFault, Refused):
        device.close(name)
        raise
    device.close(name)  # not after other errors: a browser that is gone frees nothing


def _time_together(
    device: BrowserDevice,
    assignment: Assignment,
    group: Sequence[Contestant],
    found: dict[str, BrowserVariant],
) -> None:
    """Latencies of variants that are loaded at once, in rotation; they are added to what is `found` of each."""
    samples = _kept(assignment.feeds, max(assignment.batch_sizes))
    layout = group[0].loadable.options.get("layout", USUAL)
    with ExitStack() as stack:
        sessions: dict[str, RemoteSession] = {}
        for contestant in group:
            sessions[contestant.name] = stack.enter_context(_loaded(device, assignment, contestant.name))
        first, *_ = assignment.batch_sizes
        device.keep(samples, first, layout)
        for name, session in sessions.items():
            warm_up = shapes.read(WarmUp, session.ask("warm_up", batch=first, longest=LONGEST_WARM_UP))
            found[name] = replace(found[name], warm_up=warm_up, latency_ms={})
        for batch in assignment.batch_sizes:
            if batch != first:
                device.keep(samples, batch, layout)
            device.log(f"timing {len(sessions)} variants at batch {batch}, interleaved, mode {assignment.mode.name}")
            for name, latency in interleave(sessions, batch, assignment.mode, first=batch == first).items():
                latencies = {**(found[name].latency_ms or {}), str(batch): latency}
                found[name] = replace(found[name], latency_ms=latencies)


def _kept(feeds: Feeds, least: int) -> dict[str, np.ndarray]:
    """The first samples, as many as are sent to the page, and no fewer than the largest batch."""
    size = sum(array[:1].nbytes for array in feeds.values())
    count = max(least, KEPT_BYTES // size)
    return {name: array[:count] for name, array in feeds.items()}


def _remarks(described: Described, found: Mapping[str, BrowserVariant]) -> list[str]:
    """What a reader of the numbers has to know of that browser."""
    remarks = []
    if not described.is_secure:
        remarks.append("plain HTTP, no secure context: one thread, a coarse clock, no WebGPU")
    elif not described.is_isolated:
        remarks.append("not cross-origin isolated: one thread, a coarse clock")
    for name, variant in found.items():
        for problem in variant.loaded.problems if variant.loaded else ():
            remarks.append(f"{name}: {problem}")
        typical = min((one.typical for one in (variant.latency_ms or {}).values()), default=None)
        if typical is not None and typical < COARSE * described.clock_ms:
            remarks.append(
                f"{name}: the browser's clock has steps of {described.clock_ms:.2g} ms, which round its "
                f"percentiles; its mean is right"
            )
    return remarks
