/**
 * The key or client token of the page.
 *
 * It is kept in memory only: a reload forgets it. On loopback without keys none is needed, and the dialog never opens.
 */
import { useEffect, useState } from "./ui/html.js";

/** @type {string | null} */
let key = null;
/** @type {{reason: string | null, resolve: () => void, promise: Promise<void>} | null} */
let asking = null;
const listeners = new Set();
const changed = () => listeners.forEach((/** @type {() => void} */ listener) => listener());

/** The headers that a request carries. @returns {Record<string, string>} */
export const authorization = () => (key ? { authorization: `Bearer ${key}` } : {});

/** Whether the page has a key. Pictures are then fetched with it and not by their address alone. */
export const hasKey = () => key !== null;

/** Opens the sign-in dialog. Fulfilled as soon as a key is given; all who ask meanwhile wait for the same one. */
export function askForKey(/** @type {string | null} */ reason = null) {
  if (!asking) {
    let resolve = () => {};
    const promise = new Promise((/** @type {(value?: any) => void} */ done) => (resolve = done));
    asking = { reason, resolve, promise };
    changed();
  }
  return asking.promise;
}

/** Takes the key that was typed, and lets the waiting requests go on. */
export function signIn(/** @type {string} */ text) {
  key = text.trim() || null;
  const waiting = asking;
  asking = null;
  changed();
  waiting?.resolve();
}

/** Forgets the key. */
export function signOut() {
  key = null;
  changed();
}

/** What the dialog and the frame show. */
export function useSession() {
  const [, render] = useState(0);
  useEffect(() => {
    const listener = () => render((/** @type {number} */ count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return { signedIn: key !== null, asking: asking !== null, reason: asking?.reason ?? null };
}
