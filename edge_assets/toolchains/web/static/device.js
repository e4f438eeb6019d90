/**
 * The page that makes the browser that opens it a device: it fetches work from the process that serves it, one request
 * at a time, and posts each answer in parts.
 *
 * The link's token lets one browser claim the device; what `claim` gives is the lease, which each later call carries.
 */

import * as model from "./model.js";

const HERE = new URL("./", location.href);
const PART = 2 ** 20; // characters of an answer that are posted at a time
const ALIVE_MS = 5000;
const RETRY_MS = 2000;
const $ = (id) => document.getElementById(id);
let lease = null;
let wasHidden = document.hidden;

/** The process that measures refuses a call, for the reason in the message. */
class Refusal extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

const FUNCTIONS = { ...model, timeKept };

start().catch((error) => show(error.message));

async function start() {
  const described = await describe();
  for (const note of notesOf(described)) $("notes").append(Object.assign(document.createElement("li"), { textContent: note }));
  lease = (await (await post("claim", JSON.stringify(described))).json()).lease;
  document.addEventListener("visibilitychange", () => {
    wasHidden ||= document.hidden;
    stayAwake();
  });
  stayAwake();
  const beat = setInterval(() => post("alive").catch(() => null), ALIVE_MS);
  try {
    await work();
  } finally {
    clearInterval(beat);
  }
}

/** Requests until there are no more. */
async function work() {
  for (;;) {
    show("Waiting for work");
    const response = await patiently(() => post("work"));
    if (response.status === 204) continue; // none came in time
    const { id, function: name, arguments: given } = await response.json();
    if (name === "end") {
      forget();
      await answer(id, JSON.stringify({ value: null }));
      return show(given[0]);
    }
    show(`Request ${id}: ${WORDS[name] ?? name}`);
    await answer(id, await result(name, given));
  }
}

const WORDS = {
  openBundle: "loading a variant of the model",
  run: "running the model",
  runSteps: "running the model step by step",
  timeKept: "timing the model",
  keep: "receiving queries",
};

/** What a function gave, or what it threw, as JSON. */
async function result(name, given) {
  try {
    if (!Object.hasOwn(FUNCTIONS, name)) throw new Error(`this page has no '${name}'`);
    return JSON.stringify({ value: (await FUNCTIONS[name](...given)) ?? null });
  } catch (error) {
    return JSON.stringify({ error: String(error?.message ?? error) });
  }
}

/** Post an answer, ASCII as all that is asked for is, in parts. */
async function answer(id, text) {
  const parts = Math.ceil(text.length / PART);
  for (let part = 0; part < parts; part++) {
    const piece = text.slice(part * PART, (part + 1) * PART);
    try {
      await patiently(() => post(`answers/${id}/${part}/${parts}`, piece));
    } catch (error) {
      if (error.status !== 409) throw error;
      return show(error.message); // it came too late, or arrived although its receipt did not
    }
  }
}

/** Times of queries, and whether the page was in the background meanwhile, where browsers slow it down. */
async function timeKept(name, queries, seconds) {
  wasHidden = document.hidden;
  const ms = await model.timeKept(name, queries, seconds);
  return { ms, was_hidden: wasHidden };
}

/** Leave nothing of the model behind. */
function forget() {
  try {
    indexedDB.deleteDatabase("edge-assets");
  } catch {
    // storage is denied, so there is nothing
  }
}

async function post(path, body = "") {
  const headers = { "Content-Type": "text/plain" };
  if (lease) headers["X-Lease"] = lease;
  const response = await fetch(new URL(path, HERE), { method: "POST", headers, body });
  if (!response.ok) throw new Refusal(response.status, await response.text());
  return response;
}

/** A call that is repeated while the network or the computer is away. */
async function patiently(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof Refusal) throw error;
      show(`The computer that measures does not answer; trying again (${error.message})`);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** A phone's screen stays on, where the browser lets a page ask for it. */
function stayAwake() {
  if (!document.hidden) navigator.wakeLock?.request("screen").catch(() => null);
}

function show(text) {
  $("status").textContent = text;
}

// --- what this browser is ----------------------------------------------------------------------------

async function describe() {
  const adapter = await model.adapter();
  return {
    user_agent: navigator.userAgent,
    platform: navigator.userAgentData?.platform || navigator.platform || "",
    threads: navigator.hardwareConcurrency ?? 1,
    memory_gib: navigator.deviceMemory ?? null,
    is_isolated: self.crossOriginIsolated === true,
    is_secure: self.isSecureContext,
    has_touch: navigator.maxTouchPoints > 0,
    adapter: adapter && { name: adapter.name, is_software: adapter.isSoftware },
    clock_ms: clockStep(),
  };
}

/** The smallest step of the clock that was seen in 50 ms. */
function clockStep() {
  const end = performance.now() + 50;
  let smallest = 50;
  for (let before = performance.now(), now = before; now < end; now = performance.now()) {
    if (now > before) smallest = Math.min(smallest, now - before);
    before = now;
  }
  return smallest;
}

function notesOf({ is_secure: isSecure, is_isolated: isIsolated, adapter, clock_ms: clock, threads }) {
  const notes = [`${threads} threads, a clock with steps of ${clock.toFixed(3)} ms`];
  if (!isSecure) notes.push("Plain HTTP is no secure context: one thread, a coarse clock, no WebGPU. HTTPS has all of them.");
  else if (!isIsolated) notes.push("The page is not cross-origin isolated: one thread and a coarse clock.");
  notes.push(adapter ? `WebGPU: ${adapter.name}${adapter.is_software ? ", software: it is not timed" : ""}` : "no WebGPU");
  return notes;
}
