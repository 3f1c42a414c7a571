// The settings of a picture as the studio's fields hold them, and their way into requests and back from samples.
//
// Numbers are kept as they were typed. An empty field means the service's default.

import { parseInteger, parseNumber } from "../../format.js";
import { readSeed } from "../../seed.js";

/** @typedef {import("../../api-types").components["schemas"]["ConceptBody"]} Concept */
/** @typedef {import("../../api-types").components["schemas"]["DeltaBody"]} Delta */
/** @typedef {{ delta?: string, strength: string, added?: boolean }} Use One concept: its delta (none: the current one), its
 *   strength, and whether it takes part although the prompt has no token of it. */
/** @typedef {{ way: "" | "regional" | "tokens" | "soft" | "hard", weight: string, enlarge: string, boxes: Record<string, number[]> }} Composing
 *   How several concepts come into one picture. `boxes` are by handle, as fractions of the picture. */
/**
 * @typedef {object} Settings
 * @property {string} prompt
 * @property {string} negative_prompt
 * @property {Record<string, Use>} uses By handle.
 * @property {Composing} composing
 * @property {string} n
 * @property {string} seed
 * @property {boolean} keepSeed Whether the next picture has the same seed.
 * @property {string} first_index
 * @property {string} num_inference_steps
 * @property {string} guidance_scale
 * @property {string} scheduler
 * @property {string} width
 * @property {string} height
 * @property {string} eta
 * @property {string} unconditional_strength
 * @property {string} guidance_start
 * @property {string} guidance_end
 * @property {string} determinism
 * @property {string | null} init_image
 * @property {string} noise_strength
 */
/** @typedef {{ pointer: string, code: string, detail: string }} FieldError */

/** @type {Composing} */
export const UNDECIDED = { way: "", weight: "", enlarge: "", boxes: {} };

/** @type {Settings} */
export const EMPTY = {
  prompt: "",
  negative_prompt: "",
  uses: {},
  composing: UNDECIDED,
  n: "1",
  seed: "",
  keepSeed: false,
  first_index: "",
  num_inference_steps: "",
  guidance_scale: "",
  scheduler: "",
  width: "",
  height: "",
  eta: "",
  unconditional_strength: "",
  guidance_start: "",
  guidance_end: "",
  determinism: "",
  init_image: null,
  noise_strength: "",
};

/**
 * The concepts that take part: those whose modifier token the prompt contains, in its order, then those that were added.
 *
 * @param {Settings} settings
 * @param {Concept[]} concepts
 * @returns {Concept[]}
 */
export function takingPart(settings, concepts) {
  const inPrompt = concepts
    .filter((concept) => concept.modifier_token && settings.prompt.includes(concept.modifier_token))
    .sort((one, other) => place(settings.prompt, one) - place(settings.prompt, other));
  const added = concepts.filter((concept) => settings.uses[concept.handle]?.added && !inPrompt.includes(concept));
  return [...inPrompt, ...added];
}

/** @param {string} prompt @param {Concept} concept */
const place = (prompt, concept) => prompt.indexOf(concept.modifier_token ?? "");

/**
 * The body of `POST /v1/samples`, or what is wrong with the fields.
 *
 * `order` has the handles in the order of the body's `concepts`, so that a pointer such as `/concepts/1/strength` finds its field.
 *
 * @param {Settings} settings
 * @param {Concept[]} concepts
 * @returns {{ body: Record<string, any>, errors: FieldError[], order: string[] }}
 */
export function toRequest(settings, concepts) {
  /** @type {FieldError[]} */
  const errors = [];
  /** @type {Record<string, any>} */
  const body = { prompt: settings.prompt };
  const part = takingPart(settings, concepts);

  if (settings.negative_prompt) body.negative_prompt = settings.negative_prompt;
  for (const field of INTEGERS) {
    const { value, error } = parseInteger(settings[field], { min: field === "first_index" ? 0 : 1 });
    if (error) errors.push({ pointer: `/${field}`, code: "invalid_value", detail: error });
    else if (value !== null) body[field] = value;
  }
  for (const field of NUMBERS) {
    const value = number(settings[field], `/${field}`, errors);
    if (value !== null) body[field] = value;
  }
  const { seed, error } = readSeed(settings.seed);
  if (error) errors.push({ pointer: "/seed", code: "invalid_value", detail: error });
  if (seed !== null) body.seed = seed;
  if (settings.scheduler) body.scheduler = settings.scheduler;
  if (settings.determinism) body.determinism = settings.determinism;
  const start = number(settings.guidance_start, "/guidance_interval", errors);
  const end = number(settings.guidance_end, "/guidance_interval", errors);
  if (start !== null || end !== null) body.guidance_interval = [start ?? 0, end ?? 1];
  if (settings.init_image) {
    body.init_image = settings.init_image;
    const strength = number(settings.noise_strength, "/noise_strength", errors);
    if (strength !== null) body.noise_strength = strength;
  }

  /** @type {string[]} */
  const order = [];
  /** @type {Record<string, any>[]} */
  const uses = [];
  for (const { handle } of part) {
    const use = settings.uses[handle];
    /** @type {number | null} */
    const strength = use ? number(use.strength, `/concepts/${uses.length}/strength`, errors) : null;
    if (!use || (!use.added && !use.delta && (strength === null || strength === 1))) continue;
    order.push(handle);
    uses.push({ concept: handle, ...(use.delta && { delta: use.delta }), ...(strength !== null && { strength }) });
  }
  if (uses.length) body.concepts = uses;
  if (part.length > 1) Object.assign(body, composingBody(settings.composing, part, errors));
  return { body, errors, order };
}

/** @type {("n" | "first_index" | "num_inference_steps" | "width" | "height")[]} */
const INTEGERS = ["n", "first_index", "num_inference_steps", "width", "height"];
/** @type {("guidance_scale" | "eta" | "unconditional_strength")[]} */
const NUMBERS = ["guidance_scale", "eta", "unconditional_strength"];

/**
 * @param {string} text
 * @param {string} pointer
 * @param {FieldError[]} errors
 */
function number(text, pointer, errors) {
  const value = parseNumber(text);
  if (value === undefined) {
    errors.push({ pointer, code: "invalid_value", detail: `“${text}” is not a number.` });
    return null;
  }
  return value;
}

/**
 * The fields `composition` and `merge` of a sample's request.
 *
 * @param {Composing} composing
 * @param {Concept[]} part The concepts that take part.
 * @param {FieldError[]} errors
 */
export function composingBody(composing, part, errors) {
  if (composing.way === "tokens") return { composition: { method: "tokens" } };
  if (composing.way === "soft" || composing.way === "hard") {
    const weight = composing.way === "soft" ? number(composing.weight, "/merge/constraint_weight", errors) : null;
    return { composition: { method: "merge" }, merge: { method: composing.way, ...(weight !== null && { constraint_weight: weight }) } };
  }
  const regions = part
    .filter(({ handle }) => composing.boxes[handle])
    .map(({ handle }) => ({ concept: handle, box: composing.boxes[handle] }));
  const enlarge = number(composing.enlarge, "/composition/enlarge", errors);
  if (composing.way === "" && !regions.length && enlarge === null) return {};
  return { composition: { method: "regional", ...(regions.length && { regions }), ...(enlarge !== null && { enlarge }) } };
}

/**
 * The settings with which a sample's images were made, or those of one of its images.
 *
 * @param {Record<string, any>} sample A sample, or what a dry run has resolved.
 * @param {Map<string, Delta>} deltas The deltas of the sample by id, as far as they still exist.
 * @param {Concept[]} concepts
 * @param {number | null} index The image's index among those of its seed. Null for all of them.
 * @returns {Settings}
 */
export function fromSample(sample, deltas, concepts, index = null) {
  const text = (/** @type {unknown} */ value) => (value === null || value === undefined ? "" : String(value));
  const [start, end] = sample.guidance_interval ?? [];
  return {
    ...EMPTY,
    prompt: sample.prompt,
    negative_prompt: sample.negative_prompt ?? "",
    uses: usesOf(sample, deltas, concepts),
    composing: composingOf(sample),
    n: index === null ? text(sample.n) : "1",
    seed: text(sample.seed),
    keepSeed: true,
    first_index: text(index === null ? sample.first_index || "" : index || ""),
    num_inference_steps: text(sample.num_inference_steps),
    guidance_scale: text(sample.guidance_scale),
    scheduler: text(sample.scheduler),
    width: text(sample.width),
    height: text(sample.height),
    eta: sample.eta ? text(sample.eta) : "",
    unconditional_strength: sample.unconditional_strength === 1 ? "" : text(sample.unconditional_strength),
    guidance_start: start ? text(start) : "",
    guidance_end: end === undefined || end === 1 ? "" : text(end),
    determinism: sample.determinism === "fast" ? "fast" : "",
    init_image: sample.init_image ?? null,
    noise_strength: text(sample.noise_strength),
  };
}

/**
 * @param {Record<string, any>} sample
 * @param {Map<string, Delta>} deltas
 * @param {Concept[]} concepts
 */
function usesOf(sample, deltas, concepts) {
  /** @type {Record<string, Use>} */
  const uses = {};
  for (const { delta, strength } of sample.deltas ?? []) {
    for (const { handle, modifier_token } of deltas.get(delta)?.concepts ?? []) {
      const isNamed = modifier_token && sample.prompt.includes(modifier_token);
      const now = concepts.find((concept) => concept.handle === handle);
      const isCurrent = now?.current_delta === delta;
      uses[handle] = { strength: String(strength), ...(!isCurrent && { delta }), ...(!isNamed && { added: true }) };
    }
  }
  return uses;
}

/** @param {Record<string, any>} sample @returns {Composing} */
function composingOf({ composition, merge }) {
  if (merge) return { ...UNDECIDED, way: merge.method, weight: merge.constraint_weight ? String(merge.constraint_weight) : "" };
  if (composition?.method === "tokens") return { ...UNDECIDED, way: "tokens" };
  if (composition?.method !== "regional") return UNDECIDED;
  /** @type {Record<string, number[]>} */
  const boxes = {};
  for (const region of composition.regions ?? []) if (region.box) boxes[region.concept] = region.box;
  return { ...UNDECIDED, way: "regional", enlarge: composition.enlarge > 1 ? String(composition.enlarge) : "", boxes };
}
