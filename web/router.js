/**
 * The hash router.
 *
 * A page's address is `#/concepts/rex?tab=photos`. Hashes are not sent to the server, so the page works below any path of a
 * proxy.
 */
import { useEffect, useState } from "./ui/html.js";

/** @typedef {{path: string, query: Record<string, string>}} Route */

/** @returns {Route} */
export function currentRoute() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?");
  const query = Object.fromEntries(new URLSearchParams(search));
  return { path: "/" + path.split("/").filter(Boolean).join("/"), query };
}

/**
 * The address of a page, for `href`.
 *
 * @param {string} path
 * @param {Record<string, string | number | null | undefined>} [query] What is null or empty is left out.
 */
export function link(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return `#${path}${search ? `?${search}` : ""}`;
}

/**
 * Goes to a page. `replace` leaves no entry in the history, as for filters that are typed.
 *
 * @param {string} path
 * @param {{query?: Record<string, any>, replace?: boolean}} [options]
 */
export function navigate(path, { query = {}, replace = false } = {}) {
  const address = link(path, query);
  if (address === location.hash) return;
  if (replace) {
    history.replaceState(history.state, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = address;
  }
}

/** Changes single parameters of the present address without an entry in the history. */
export function setQuery(/** @type {Record<string, any>} */ changes) {
  const { path, query } = currentRoute();
  navigate(path, { query: { ...query, ...changes }, replace: true });
}

/** The present route; renders again when it changes. */
export function useRoute() {
  const [route, setRoute] = useState(currentRoute);
  useEffect(() => {
    const changed = () => setRoute(currentRoute());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/**
 * The parameters of `path` if it has the form of `pattern`, such as `/concepts/:id`, and null otherwise.
 *
 * @param {string} pattern
 * @param {string} path
 */
export function match(pattern, path) {
  const wanted = pattern.split("/");
  const given = path.split("/");
  if (wanted.length !== given.length) return null;
  /** @type {Record<string, string>} */
  const params = {};
  for (const [index, part] of wanted.entries()) {
    if (part.startsWith(":")) params[part.slice(1)] = decoded(given[index]);
    else if (part !== given[index]) return null;
  }
  return params;
}

/** A part of an address without its escapes. One that was typed wrong, such as `50%`, stays as it is. */
function decoded(/** @type {string} */ part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
