// What the grid of a composition draws: prompts by ways.

import { UNDECIDED, composingBody } from "../studio/settings.js";
import { inPrompt } from "../studio/prompt.js";
import { parseNumber } from "../../format.js";
import { readSeed } from "../../seed.js";

/** @typedef {import("../studio/concepts.js").Concept} Concept */
/** @typedef {import("../studio/settings.js").Composing} Choice */
/** @typedef {import("../studio/settings.js").Use} Use */
/** @typedef {{ id: string, label: string, alone?: Concept, way?: Choice["way"], delta?: string }} Column */

/** The columns that are drawn unless others are chosen. */
export const DEFAULT_COLUMNS = ["alone", "regional", "soft"];

/** @type {{ id: string, label: string }[]} */
export const COLUMN_KINDS = [
  { id: "alone", label: "Each alone" },
  { id: "regional", label: "Regions" },
  { id: "tokens", label: "Tokens" },
  { id: "soft", label: "Soft merge" },
  { id: "hard", label: "Hard merge" },
  { id: "joint", label: "Trained jointly" },
];

/** The prompts unless others are written; `{}` stands for each concept in turn. */
export function defaultPrompts(/** @type {number} */ count) {
  const next = Array.from({ length: count }, () => "a {}").join(" next to ");
  const listed = Array.from({ length: count }, () => "a {}").join(" and ");
  return [`${next} on the grass`, `${listed} on the beach`, `${listed} in the snow`].join("\n");
}

/**
 * The columns of the grid.
 *
 * @param {string[]} kinds
 * @param {Concept[]} part
 * @param {string | null} joint A delta of a joint training of just these concepts.
 * @returns {Column[]}
 */
export function columnsOf(kinds, part, joint) {
  return COLUMN_KINDS.filter(({ id }) => kinds.includes(id)).flatMap(({ id, label }) => /** @type {Column[]} */ (columnsOfKind(id, label)));

  function columnsOfKind(/** @type {string} */ id, /** @type {string} */ label) {
    if (id === "alone") return part.map((alone) => ({ id: `alone-${alone.handle}`, label: `${alone.modifier_token ?? alone.class_noun} alone`, alone }));
    if (id === "joint") return joint ? [{ id, label, delta: joint }] : [];
    return [{ id, label, way: /** @type {Choice["way"]} */ (id) }];
  }
}

/** The prompts, one to a line. */
export const promptsOf = (/** @type {string} */ text) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .slice(0, 8);

/** A prompt with the names of the concepts in place of `{}`. */
export function named(/** @type {string} */ template, /** @type {Concept[]} */ part) {
  let at = 0;
  return template.replaceAll("{}", () => inPrompt(part[Math.min(at++, part.length - 1)]));
}

/** The prompt of one concept alone: its name, then the scene that follows the last one. */
function alone(/** @type {string} */ template, /** @type {Concept} */ concept) {
  const scene = template.slice(template.lastIndexOf("{}") + 2);
  return template.includes("{}") ? `a ${inPrompt(concept)}${scene}` : template;
}

/**
 * The request of a cell.
 *
 * @param {string} template
 * @param {Column} column
 * @param {{ part: Concept[], uses: Record<string, Use>, composing: Choice, seed: string }} chosen
 */
export function requestOf(template, column, { part, uses, composing, seed }) {
  const taking = column.alone ? [column.alone] : part;
  const prompt = column.alone ? alone(template, column.alone) : named(template, part);
  const concepts = taking.flatMap(({ handle, modifier_token }) => {
    const delta = column.delta ?? uses[handle]?.delta;
    const strength = parseNumber(uses[handle]?.strength ?? "") ?? 1;
    const isNamed = modifier_token && prompt.includes(modifier_token);
    return isNamed && !delta && strength === 1 ? [] : [{ concept: handle, ...(delta && { delta }), ...(strength !== 1 && { strength }) }];
  });
  const way = column.way ? composingBody({ ...UNDECIDED, weight: composing.weight, boxes: composing.boxes, enlarge: composing.enlarge, way: column.way }, part, []) : {};
  return { prompt, n: 1, seed: readSeed(seed).seed ?? 1, ...(concepts.length && { concepts }), ...way };
}
