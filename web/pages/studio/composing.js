// How several concepts come into one picture: what the service expects of it, the ways, weights and boxes.

import { parseNumber } from "../../format.js";
import { SelectField, TextField, errorsAt } from "../../ui/field.js";
import { Folded } from "../../ui/folded.js";
import { html } from "../../ui/html.js";
import { Badge } from "../../ui/page.js";
import { Regions } from "../../ui/regions.js";
import { Verdict, useCheck } from "./check.js";
import { warningAt } from "./controls.js";
import { Errors } from "./errors.js";

/** @typedef {import("./concepts.js").Concept} Concept */
/** @typedef {import("./settings.js").Composing} Choice */
/** @typedef {import("./settings.js").Use} Use */

/** The ways, as people choose them. */
export const WAYS = [
  { value: "", label: "Automatic (regions)", hint: "The base model lays out the scene, then each concept is drawn in a region of its own." },
  { value: "regional", label: "Regions", hint: "Each concept is drawn in a region of its own. It costs one drawing more for each concept." },
  { value: "tokens", label: "Tokens", hint: "Each concept changes only its own words. It costs one drawing." },
  { value: "soft", label: "Merge, soft", hint: "The concepts become one delta; those that contradict each other each give way a little." },
  { value: "hard", label: "Merge, hard", hint: "The concepts become one delta and are kept exactly, as in the paper." },
];

/**
 * @param {object} props
 * @param {Choice} props.composing
 * @param {(composing: Choice) => void} props.onChange
 * @param {Concept[]} props.part The concepts that take part: two or more.
 * @param {Record<string, Use>} props.uses
 * @param {number} props.aspect Width through height of the picture.
 * @param {any} props.problem
 * @param {any[]} props.warnings
 * @param {boolean} [props.bare] Without the verdict, where the page shows it elsewhere.
 */
export function Composing({ composing, onChange, part, uses, aspect, problem, warnings, bare = false }) {
  const { answer } = useCheck(bare ? [] : part, uses, composing);
  const way = WAYS.find(({ value }) => value === composing.way) ?? WAYS[0];
  const regional = composing.way === "" || composing.way === "regional";
  const errors = errorsAt(problem, "/composition/regions").map(({ detail }) => detail);
  return html`<fieldset class="composing">
    <legend class=${bare ? "visually-hidden" : undefined}>Together ${answer && html`<${Badge} kind=${KINDS[answer.verdict]}>${SHORT[answer.verdict]}<//>`}</legend>
    ${answer && html`<${Verdict} check=${answer} part=${part} compact />`}
    <${SelectField}
      label="Way"
      hint=${way.hint}
      pointer=${["/composition/method", "/merge/method"]}
      problem=${problem}
      warning=${warningAt(warnings, "/composition") ?? warningAt(warnings, "/merge")}
      value=${composing.way}
      onValue=${(/** @type {any} */ value) => onChange({ ...composing, way: value })}
      options=${WAYS}
    />
    ${composing.way === "soft" && html`<${Weight} composing=${composing} onChange=${onChange} problem=${problem} />`}
    ${regional &&
    html`<${Folded} class="composing-boxes" title="Places" open=${Object.keys(composing.boxes).length > 0}>
      <${Regions}
        concepts=${part.map(({ handle, modifier_token, class_noun }) => ({ handle, label: modifier_token ?? class_noun }))}
        boxes=${composing.boxes}
        onChange=${(/** @type {any} */ boxes) => onChange({ ...composing, boxes })}
        aspect=${aspect}
      />
      <${Errors} errors=${errors} />
      <${TextField}
        label="Enlarge"
        inputmode="numeric"
        pointer="/composition/enlarge"
        problem=${problem}
        value=${composing.enlarge}
        onValue=${(/** @type {string} */ enlarge) => onChange({ ...composing, enlarge })}
        placeholder="1"
        hint="1 to 4 times the size: regions gain detail."
      />
    <//>`}
  </fieldset>`;
}

/**
 * The weight of soft constraints, on a slider of powers of ten.
 *
 * @param {{ composing: Choice, onChange: (composing: Choice) => void, problem: any }} props
 */
export function Weight({ composing, onChange, problem }) {
  const set = (/** @type {string} */ weight) => onChange({ ...composing, weight });
  const weight = parseNumber(composing.weight) ?? 1000;
  return html`<div class="weight">
    <${TextField}
      label="Weight"
      inputmode="decimal"
      pointer=${["/merge/constraint_weight", "/constraint_weight"]}
      problem=${problem}
      value=${composing.weight}
      onValue=${set}
      placeholder="1000"
      hint="A larger weight keeps each concept closer to what was learned, and changes other prompts more."
    />
    <input
      type="range"
      aria-label="Weight, in powers of ten"
      min="-1"
      max="8"
      step="0.5"
      value=${Math.log10(Math.max(0.1, weight))}
      onInput=${(/** @type {any} */ event) => set(String(Number((10 ** Number(event.currentTarget.value)).toPrecision(2))))}
    />
  </div>`;
}

/** @type {Record<string, string>} */
export const KINDS = { ok: "ok", risky: "warn", conflict: "fail" };
/** @type {Record<string, string>} */
export const SHORT = { ok: "go together", risky: "risky", conflict: "conflict" };
