/**
 * Small state that survives a reload: drafts in the tab's session storage, preferences in local storage. Never keys.
 */
import { useCallback, useState } from "./ui/html.js";

/** @param {Storage} storage @param {string} name @param {any} fallback */
function read(storage, name, fallback) {
  try {
    const text = storage.getItem(`vstar.${name}`);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** @param {Storage} storage @param {string} name @param {any} value */
function write(storage, name, value) {
  try {
    if (value === null || value === undefined) storage.removeItem(`vstar.${name}`);
    else storage.setItem(`vstar.${name}`, JSON.stringify(value));
  } catch {
    // A full or forbidden storage loses the draft on a reload, and nothing else.
  }
}

export const drafts = {
  get: (/** @type {string} */ name, fallback = null) => read(sessionStorage, name, fallback),
  set: (/** @type {string} */ name, /** @type {any} */ value) => write(sessionStorage, name, value),
};

export const preferences = {
  get: (/** @type {string} */ name, fallback = null) => read(localStorage, name, fallback),
  set: (/** @type {string} */ name, /** @type {any} */ value) => write(localStorage, name, value),
};

/**
 * Like `useState`, and kept over a reload.
 *
 * @template T
 * @param {string} name Unique in the page, such as `concept-new`.
 * @param {T} initial
 * @param {typeof drafts} [place]
 * @returns {[T, (next: T | ((former: T) => T)) => void]}
 */
export function useStored(name, initial, place = drafts) {
  const [value, setValue] = useState(() => place.get(name, /** @type {any} */ (initial)));
  const set = useCallback(
    (/** @type {any} */ next) =>
      setValue((/** @type {any} */ former) => {
        const now = typeof next === "function" ? next(former) : next;
        place.set(name, now);
        return now;
      }),
    [name],
  );
  return [value, set];
}
