/**
 * Whether the server can be reached.
 *
 * A request that gets no answer reports it here. From then on the server is asked for its health until it answers; pages and
 * streams that wait for it go on by themselves.
 */
import { useEffect, useState } from "./ui/html.js";

let lost = false;
const listeners = new Set();
/** @type {Promise<void> | null} */
let recovery = null;

function set(/** @type {boolean} */ value) {
  if (lost === value) return;
  lost = value;
  listeners.forEach((/** @type {(lost: boolean) => void} */ listener) => listener(lost));
}

async function waitForHealth() {
  for (let delay = 500; ; delay = Math.min(delay * 1.5, 5000)) {
    await new Promise((done) => setTimeout(done, delay));
    try {
      const answer = await fetch("readyz", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (answer.ok) break;
    } catch {
      // Still away.
    }
  }
  recovery = null;
  set(false);
}

/** Says that a request got no answer. Fulfilled when the server answers again. */
export function connectionLost() {
  set(true);
  return (recovery ??= waitForHealth());
}

/** True while the server cannot be reached. */
export function useLost() {
  const [value, setValue] = useState(lost);
  useEffect(() => onConnection(setValue), []);
  return value;
}

/** Calls `listener(lost)` at each change. Returns what ends that. */
export function onConnection(/** @type {(lost: boolean) => void} */ listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}
