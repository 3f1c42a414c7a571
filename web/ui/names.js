/** What concepts are called, by their ids. */
import { useEffect, useState } from "./html.js";
import { api } from "../api.js";

/** Concepts that were asked for: null are those that are gone. @type {Map<string, Promise<any>>} */
const asked = new Map();

/**
 * The concepts with these ids, as they are read one by one: a page names few of the thousands that there may be.
 *
 * @param {string[]} ids
 * @returns {Map<string, any>} By id. Those that are not known yet, or are gone, are not in it.
 */
export function useConcepts(ids) {
  const [known, setKnown] = useState(/** @type {Map<string, any>} */ (new Map()));
  const wanted = [...new Set(ids)].sort().join();
  useEffect(() => {
    if (!wanted) return;
    let there = true;
    Promise.all(wanted.split(",").map(conceptOf)).then((found) => there && setKnown(new Map(found.filter(Boolean).map((each) => [each.id, each]))));
    return () => void (there = false);
  }, [wanted]);
  return known;
}

/** @param {string} id */
function conceptOf(id) {
  const known = asked.get(id);
  if (known) return known;
  const request = api.get(`v1/concepts/${id}`).then(
    ({ body }) => body,
    (problem) => {
      // What could not be asked is asked again the next time.
      if (problem.status !== 404) asked.delete(id);
      return null;
    },
  );
  asked.set(id, request);
  return request;
}
