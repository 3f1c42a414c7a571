// What the studio knows of the service: its concepts, their deltas, its limits.

import { api } from "../../api.js";
import { useEffect, useState } from "../../ui/html.js";
import { useCapabilities } from "../../ui/load.js";

/** @typedef {import("../../api-types").components["schemas"]["ConceptBody"]} Concept */
/** @typedef {import("../../api-types").components["schemas"]["DeltaBody"]} Delta */
/** @typedef {import("../../api-types").components["schemas"]["CapabilitiesBody"]} Capabilities */

/** How many concepts are read at first. */
const FIRST = 50;

/** The concepts as they were known last, newest first, and whether these are all. */
const known = { concepts: /** @type {Concept[]} */ ([]), isAll: false };

/**
 * The concepts and the service's capabilities. What is known is kept from page to page, and asked for again when a page opens.
 *
 * There may be thousands of concepts, so the newest come first, and all of them once `all` is true.
 *
 * @param {boolean} all
 * @returns {{ concepts: Concept[], capabilities: Capabilities | null, loaded: boolean, isAll: boolean, problem: any }} `loaded` is true
 *   once the first are there.
 */
export function useService(all) {
  const capabilities = useCapabilities();
  const [state, setState] = useState(() => ({ ...known, loaded: known.isAll, problem: /** @type {any} */ (null) }));
  useEffect(() => {
    let gone = false;
    (all ? readAll() : readFirst()).then(
      () => gone || setState({ ...known, loaded: true, problem: null }),
      (problem) => gone || setState((/** @type {any} */ before) => ({ ...before, problem })),
    );
    return () => {
      gone = true;
    };
  }, [all]);
  return { ...state, capabilities };
}

/** All concepts: those that are known, or else read now. @returns {Promise<Concept[]>} */
export async function everyConcept() {
  if (!known.isAll) await readAll();
  return known.concepts;
}

async function readAll() {
  known.concepts = await api.all("v1/concepts", { limit: 10_000 });
  known.isAll = true;
}

async function readFirst() {
  const { body } = await api.get(`v1/concepts?limit=${FIRST}`);
  const rest = known.concepts.filter(({ id }) => !body.data.some((/** @type {Concept} */ one) => one.id === id));
  known.concepts = [...body.data, ...(body.has_more ? rest : [])];
  known.isAll ||= !body.has_more;
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
