/**
 * Server-sent events over `fetch`, which can send the key. Goes on after the last event that was seen, and connects again by
 * itself.
 */
import { api } from "./api.js";
import { connectionLost } from "./connection.js";

const wait = (/** @type {number} */ ms, /** @type {AbortSignal} */ signal) =>
  new Promise((/** @type {(value?: any) => void} */ done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

/**
 * Streams over HTTP/1.1 take a connection each, and a browser has six for one host, in all of its tabs. So a page opens few, and
 * one that has been hidden for a while none.
 */
const MAX_STREAMS = 2;
const HIDDEN_MS = 20_000;
let open = 0;

/** Fulfilled when the page is visible, or when `signal` is aborted. @param {AbortSignal} signal */
const visible = (signal) =>
  new Promise((/** @type {(value?: any) => void} */ done) => {
    const changed = () => {
      if (document.visibilityState !== "visible" && !signal.aborted) return;
      document.removeEventListener("visibilitychange", changed);
      signal.removeEventListener("abort", changed);
      done();
    };
    document.addEventListener("visibilitychange", changed);
    signal.addEventListener("abort", changed);
    changed();
  });

/** A signal that is aborted with `signal`, or when the page has been hidden for a while. @param {AbortSignal} signal */
function whileSeen(signal) {
  const seen = new AbortController();
  let timer = 0;
  const stop = () => seen.abort();
  const changed = () => {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = setTimeout(stop, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", changed);
  signal.addEventListener("abort", stop, { once: true });
  const forget = () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", changed);
    signal.removeEventListener("abort", stop);
  };
  return { signal: seen.signal, forget };
}

/** Whether one more stream would leave connections for other requests. */
export const canStream = () => open < MAX_STREAMS;

/**
 * Reads the events of `path` until the server says that there are no more, or until `signal` is aborted.
 *
 * @param {string} path
 * @param {{
 *   onEvent: (event: {id: string | null, event: string, data: any}) => void,
 *   onLost?: (lost: boolean) => void,
 *   lastEventId?: string | null,
 *   signal: AbortSignal,
 * }} options `onLost` is told when the connection is lost, and when it is back.
 * @returns {Promise<void>}
 */
export async function stream(path, { onEvent, onLost = () => {}, lastEventId = null, signal }) {
  let last = lastEventId;
  let delay = 500;
  open++;
  try {
    while (!signal.aborted) {
      await visible(signal);
      if (signal.aborted) return;
      const seen = whileSeen(signal);
      try {
        const response = await api.open(path, {
          headers: { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) },
          signal: seen.signal,
        });
        if (response.status === 204) return;
        if (response.status >= 400 && response.status < 500 && response.status !== 429) return;
        if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
        onLost(false);
        let ended = false;
        for await (const event of eventsOf(response.body)) {
          delay = 500;
          last = event.id ?? last;
          onEvent(event);
          ended = event.event === "job.terminal";
        }
        if (ended) return;
      } catch {
        if (signal.aborted) return;
        if (seen.signal.aborted) continue; // nobody was looking
        onLost(true);
        if (!navigator.onLine || delay > 500) await Promise.race([connectionLost(), wait(30_000, signal)]);
      } finally {
        seen.forget();
      }
      await wait(delay * (0.75 + Math.random() / 2), signal);
      delay = Math.min(delay * 2, 10_000);
    }
  } finally {
    open--;
  }
}

/** @param {ReadableStream<Uint8Array>} body */
async function* eventsOf(body) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
  }
}

/** @param {string} block */
function parse(block) {
  /** @type {{id: string | null, event: string, data: any}} */
  const event = { id: null, event: "message", data: null };
  let data = "";
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = line.match(/^([a-z]+): ?(.*)$/) ?? [];
    if (name === "id") event.id = value;
    else if (name === "event") event.event = value;
    else if (name === "data") data += (data ? "\n" : "") + value;
  }
  if (!data) return null;
  event.data = JSON.parse(data);
  return event;
}
