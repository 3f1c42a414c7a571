/** Reads a resource for a page. */
import { useCallback, useEffect, useRef, useState } from "./html.js";
import { api } from "../api.js";
import { onConnection } from "../connection.js";

/**
 * Reads `path`, again when the path changes, when `reload()` is called, when the connection is back, and every `every` seconds
 * while the page is visible.
 *
 * The former body stays while the next one is read, unless the path has changed.
 *
 * @param {string | null} path null reads nothing
 * @param {{every?: number, all?: boolean}} [options] `all` reads all pages of a list; the body is then an array
 * @returns {{body: any, problem: any, loading: boolean, reload: () => Promise<void>, set: (body: any) => void}}
 */
export function useGet(path, { every, all = false } = {}) {
  const [state, setState] = useState({ path, body: /** @type {any} */ (null), problem: /** @type {any} */ (null), loading: path !== null });
  const request = useRef(/** @type {AbortController | null} */ (null));
  const pending = useRef(false);
  const reload = useCallback(async () => {
    request.current?.abort();
    if (path === null) return;
    const mine = (request.current = new AbortController());
    pending.current = true;
    setState((/** @type {any} */ former) =>
      former.path === path ? { ...former, loading: true } : { path, body: null, problem: null, loading: true },
    );
    try {
      const body = all ? await api.all(path, { signal: mine.signal }) : (await api.get(path, { signal: mine.signal })).body;
      if (!mine.signal.aborted) setState({ path, body, problem: null, loading: false });
    } catch (problem) {
      if (!mine.signal.aborted) setState((/** @type {any} */ former) => ({ ...former, path, problem, loading: false }));
    }
    if (request.current === mine) pending.current = false;
  }, [path, all]);
  useEffect(() => {
    reload();
    const ended = onConnection((lost) => !lost && reload());
    return () => {
      ended();
      request.current?.abort();
    };
  }, [reload]);
  useEffect(() => {
    if (!every || path === null) return;
    // A server that is slower than the timer gets no further request before its answer.
    const timer = setInterval(() => document.visibilityState === "visible" && !pending.current && reload(), every * 1000);
    return () => clearInterval(timer);
  }, [every, reload]);
  const set = useCallback((/** @type {any} */ body) => setState({ path, body, problem: null, loading: false }), [path]);
  const fresh = state.path === path;
  return { body: fresh ? state.body : null, problem: fresh ? state.problem : null, loading: fresh ? state.loading : true, reload, set };
}

/** @type {Promise<any> | null} */
let capabilities = null;

/** The service's base model, defaults and limits; read once. Null until then. */
export function useCapabilities() {
  const [body, setBody] = useState(/** @type {any} */ (null));
  useEffect(() => {
    capabilities ??= api.get("v1/capabilities").then((answer) => answer.body);
    capabilities.then(setBody, () => (capabilities = null));
  }, []);
  return body;
}

/** The value as it was `ms` ago, for what is asked while somebody types. @template T @param {T} value @returns {T} */
export function useSettled(value, ms = 300) {
  const [settled, setSettled] = useState(value);
  const text = JSON.stringify(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [text, ms]);
  return settled;
}

/**
 * Does something again and again, each time so many milliseconds after it has ended, while the page is visible. A failure is tried
 * again.
 *
 * @param {number} ms
 * @param {() => Promise<void>} action
 * @returns {() => void} Ends it.
 */
export function every(ms, action) {
  let timer = setTimeout(again, ms);
  let ended = false;
  async function again() {
    if (!document.hidden) await action().catch(() => {});
    if (!ended) timer = setTimeout(again, ms);
  }
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}
