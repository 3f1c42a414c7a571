// What the studio knows of the service: its concepts, their deltas, its limits.

import { api } from "../../api.js";
import { useEffect, useState } from "../../ui/html.js";
import { useCapabilities } from "../../ui/load.js";

/** @typedef {import("../../api-types").components["schemas"]["ConceptBody"]} Concept */
/** @typedef {import("../../api-types").components["schemas"]["DeltaBody"]} Delta */
/** @typedef {import("../../api-types").components["schemas"]["CapabilitiesBody"]} Capabilities */

/** @type {Concept[]} The concepts as they were known last, so that a page shows them at once. */
let known = [];

/**
 * All concepts and the service's capabilities. Concepts are kept from page to page, and asked for again when a page opens.
 *
 * @returns {{ concepts: Concept[], capabilities: Capabilities | null, loaded: boolean, problem: any, reload: () => void }}
 */
export function useService() {
  const capabilities = useCapabilities();
  const [state, setState] = useState(() => ({ concepts: known, loaded: false, problem: /** @type {any} */ (null) }));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let gone = false;
    api.all("v1/concepts", { limit: 10_000 }).then(
      (concepts) => {
        known = concepts;
        if (!gone) setState({ concepts, loaded: true, problem: null });
      },
      (problem) => gone || setState((/** @type {any} */ before) => ({ ...before, problem })),
    );
    return () => {
      gone = true;
    };
  }, [turn]);
  return { ...state, capabilities, reload: () => setTurn((/** @type {number} */ before) => before + 1) };
}

/** @type {Map<string, Promise<Delta | null>>} Deltas never change, so each is asked for once. */
const deltas = new Map();

/**
 * The deltas with these ids. Those that have been deleted are left out.
 *
 * @param {string[]} ids
 * @returns {Promise<Map<string, Delta>>}
 */
export async function deltasOf(ids) {
  const found = await Promise.all(ids.map((id) => (deltas.has(id) ? deltas.get(id) : remember(id))));
  return new Map(found.flatMap((delta) => (delta ? [[delta.id, delta]] : [])));
}

/** @param {string} id */
function remember(id) {
  const asked = api.get(`v1/deltas/${id}`).then(
    ({ body }) => body,
    (problem) => {
      deltas.delete(id);
      if (problem.status === 404 || problem.status === 410) return null;
      throw problem;
    },
  );
  deltas.set(id, asked);
  return asked;
}

/**
 * The deltas of a concept, newest first, once `open` is true.
 *
 * @param {string} handle
 * @param {boolean} open
 * @returns {Delta[] | null}
 */
export function useVersions(handle, open) {
  const [versions, setVersions] = useState(/** @type {Delta[] | null} */ (null));
  useEffect(() => {
    if (!open) return;
    let gone = false;
    api.get(`v1/deltas?concept=${encodeURIComponent(handle)}&limit=50`).then(
      ({ body }) => gone || setVersions(body.data),
      () => gone || setVersions([]),
    );
    return () => {
      gone = true;
    };
  }, [handle, open]);
  return versions;
}
