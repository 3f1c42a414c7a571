/** Fields of forms: a label, a hint, and beside each what the server said of its JSON pointer. */
import { html, classes, nextId, useEffect, useRef, useState } from "./html.js";
import { parseInteger, parseNumber, short } from "../format.js";
import { Icon } from "./icon.js";

/** @typedef {import("../api.js").Problem} Problem */

/**
 * What a problem says of a pointer and of what is below it.
 *
 * @param {Problem | null | undefined} problem
 * @param {string | string[] | undefined} pointer
 */
export function errorsAt(problem, pointer) {
  if (!problem || !pointer) return [];
  const pointers = [pointer].flat();
  return problem.errors.filter((error) => pointers.some((of) => error.pointer === of || error.pointer.startsWith(`${of}/`)));
}

/**
 * A labelled field. `children` is a function that gets the attributes which tie the input to its label, hint and error:
 *
 * ```js
 * html`<${Field} label="Handle" hint="…" pointer="/handle" problem=${problem}>
 *   ${(a) => html`<input ...${a} value=${handle} onInput=${…} />`}
 * <//>`
 * ```
 *
 * @param {{label: any, hint?: any, pointer?: string | string[], problem?: Problem | null, error?: string | null, warning?: any,
 *   aside?: any, optional?: boolean, hideLabel?: boolean, class?: string, children: any}} props `error` is what the page itself
 *   found; `aside` stands at the end of the label's line.
 */
export function Field({ label, hint, pointer, problem, error, warning, aside, optional, hideLabel, class: name, children }) {
  const id = useRef("");
  const own = (id.current ||= nextId("field"));
  const errors = [...(error ? [error] : []), ...new Set(errorsAt(problem, pointer).map((entry) => entry.detail))];
  const described = [hint && `${own}-hint`, warning && `${own}-warning`, errors.length && `${own}-error`].filter(Boolean).join(" ");
  const attributes = {
    id: own,
    "aria-describedby": described || undefined,
    "aria-invalid": errors.length ? "true" : undefined,
  };
  const child = Array.isArray(children) ? children.find((/** @type {any} */ each) => typeof each === "function") : children;
  return html`<div class=${classes("field", errors.length && "field-wrong", name)}>
    <div class=${classes("field-top", hideLabel && "visually-hidden")}>
      <label for=${own} id=${`${own}-label`}>${label}${optional && html` <span class="muted">optional</span>`}</label>
      ${aside && html`<span class="field-aside">${aside}</span>`}
    </div>
    ${typeof child === "function" ? child(attributes) : children}
    ${hint && html`<p class="field-hint" id=${`${own}-hint`}>${hint}</p>`}
    ${warning && html`<p class="field-warning" id=${`${own}-warning`}><${Icon} name="warn" size=${16} />${warning}</p>`}
    ${errors.length > 0 &&
    html`<div class="field-error" id=${`${own}-error`} role="alert">
      ${errors.map((text) => html`<p key=${text}><${Icon} name="fail" size=${16} /><span>${sentence(text)}</span></p>`)}
    </div>`}
  </div>`;
}

/**
 * A detail of the server for people: it begins in lower case and has names between backticks.
 *
 * @returns {any} what stands between tags of a template
 */
export function sentence(/** @type {string} */ text) {
  const isName = /[\d_.]/.test(text.split(" ")[0]); // Such as a file's, which stays as it is.
  const start = isName ? text : (text[0] ?? "").toUpperCase() + text.slice(1);
  const whole = /[.!?]$/.test(start) ? start : `${start}.`;
  return whole.split("`").map((part, index) => (index % 2 ? html`<code key=${index}>${part}</code>` : part));
}

/** @param {any} props Those of `Field`, and of the input: `value`, `onValue(text)`, `placeholder`, `multiline`, … */
export function TextField({ label, hint, pointer, problem, error, warning, aside, optional, hideLabel, value, onValue, multiline, ...rest }) {
  const onInput = (/** @type {any} */ event) => onValue(event.currentTarget.value);
  return html`<${Field} ...${{ label, hint, pointer, problem, error, warning, aside, optional, hideLabel, class: rest.class }}>
    ${(/** @type {any} */ a) =>
      multiline
        ? html`<textarea ...${rest} ...${a} class="input" rows=${rest.rows ?? 3} value=${value ?? ""} onInput=${onInput}></textarea>`
        : html`<input type="text" autocomplete="off" spellcheck="false" ...${rest} ...${a} class="input" value=${value ?? ""} onInput=${onInput} />`}
  <//>`;
}

/**
 * A number that is typed. The text stays as it was typed, also if it is no number: nothing is rounded or clipped.
 *
 * `onValue(value, ok)` gets the number, or null if the field is empty, and whether it can be used.
 *
 * @param {any} props Those of `Field`, and `value`, `onValue`, `min`, `max`, `step`, `integer`, `unit`, `placeholder`
 */
export function NumberField({ value, onValue, min = -Infinity, max = Infinity, integer = false, unit, placeholder, onKeyDown, ...field }) {
  const [text, setText] = useState(value === null || value === undefined ? "" : String(value));
  const [error, setError] = useState(/** @type {string | null} */ (null));
  const sent = useRef(value ?? null);
  useEffect(() => {
    // The value was changed from outside, such as by taking the settings of an image.
    if ((value ?? null) === sent.current) return;
    sent.current = value ?? null;
    setText(value === null || value === undefined ? "" : String(value));
    setError(null);
  }, [value]);
  const typed = (/** @type {any} */ event) => {
    const now = event.currentTarget.value;
    setText(now);
    const read = integer ? parseInteger(now, { min: Number.isFinite(min) ? min : Number.MIN_SAFE_INTEGER, max: Number.isFinite(max) ? max : undefined }) : readNumber(now, min, max);
    setError(read.error);
    sent.current = read.error ? sent.current : read.value;
    onValue(read.error ? sent.current : read.value, !read.error);
  };
  return html`<${Field} ...${field} error=${error ?? field.error}>
    ${(/** @type {any} */ a) => html`<span class="input-with-unit">
      <input ...${a} class="input input-number" type="text" inputmode=${integer ? "numeric" : "decimal"} autocomplete="off" value=${text} placeholder=${placeholder} onInput=${typed} onKeyDown=${onKeyDown} />
      ${unit && html`<span class="input-unit">${unit}</span>`}
    </span>`}
  <//>`;
}

/** @param {string} text @param {number} min @param {number} max */
function readNumber(text, min, max) {
  const value = parseNumber(text);
  if (value === undefined) return { value: null, error: "Write a number, such as 0.8 or 0,8." };
  if (value !== null && value < min) return { value: null, error: `The smallest is ${short(min)}.` };
  if (value !== null && value > max) return { value: null, error: `The largest is ${short(max)}.` };
  return { value, error: null };
}

/**
 * A slider with its number beside it, which can be typed.
 *
 * @param {any} props Those of `Field`, and `value`, `onValue(value)`, `min`, `max`, `step`
 */
export function SliderField({ value, onValue, min, max, step = 0.05, ...field }) {
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const [error, setError] = useState(/** @type {string | null} */ (null));
  const digits = (String(step).split(".")[1] ?? "").length;
  const typed = (/** @type {any} */ event) => {
    const now = event.currentTarget.value;
    const read = readNumber(now, min, max);
    setText(now);
    setError(read.error);
    if (!read.error && read.value !== null) onValue(read.value);
  };
  const left = () => (setText(null), setError(null));
  const share = `${((value - min) / (max - min)) * 100}%`;
  return html`<${Field} ...${field} error=${error ?? field.error}>
    ${(/** @type {any} */ a) => html`<span class="slider">
      <input ...${a} type="range" min=${min} max=${max} step=${step} value=${value} style=${{ "--share": share }} onInput=${(/** @type {any} */ event) => (left(), onValue(Number(event.currentTarget.value)))} />
      <input class="input input-number" type="text" inputmode="decimal" aria-labelledby=${`${a.id}-label`} aria-describedby=${a["aria-describedby"]} aria-invalid=${a["aria-invalid"]} value=${text ?? Number(Number(value).toFixed(Math.max(digits, 4)))} onInput=${typed} onBlur=${left} />
    </span>`}
  <//>`;
}

/** @param {any} props Those of `Field`, and `value`, `onValue`, `options`: `[{value, label}]` */
export function SelectField({ value, onValue, options, ...field }) {
  return html`<${Field} ...${field}>
    ${(/** @type {any} */ a) => html`<select ...${a} class="input" value=${value} onChange=${(/** @type {any} */ event) => onValue(event.currentTarget.value)}>
      ${options.map((/** @type {any} */ option) => html`<option key=${option.value} value=${option.value} selected=${option.value === value}>${option.label}</option>`)}
    </select>`}
  <//>`;
}

/** @param {{label: any, hint?: any, checked: boolean, onValue: (checked: boolean) => void, disabled?: boolean}} props */
export function CheckField({ label, hint, checked, onValue, disabled }) {
  return html`<label class="check">
    <input type="checkbox" checked=${checked} disabled=${disabled} onChange=${(/** @type {any} */ event) => onValue(event.currentTarget.checked)} />
    <span>${label}${hint && html`<span class="field-hint">${hint}</span>`}</span>
  </label>`;
}

/**
 * What a problem says that no field of the form shows, with the id under which the server's log has it.
 *
 * @param {{problem?: Problem | null, shown?: string[]}} props `shown` are the pointers of the form's fields.
 */
export function FormProblem({ problem, shown = [] }) {
  if (!problem) return null;
  const beside = new Set(errorsAt(problem, shown));
  const rest = problem.errors.filter((error) => !beside.has(error));
  const details = [...new Set(rest.map((error) => error.detail))];
  const where = beside.size > 0 && rest.length === 0;
  return html`<div class="notice notice-fail" role="alert">
    <${Icon} name="fail" />
    <div class="notice-text">
      ${where
        ? html`<p>${beside.size === 1 ? "One field needs a change." : `${beside.size} fields need a change.`} The reason is beside it.</p>`
        : (details.length ? details : [problem.detail]).map((text) => html`<p key=${text}>${sentence(text)}</p>`)}
      <p class="notice-small">
        ${problem.retryAfter ? `Try again in ${problem.retryAfter} s. ` : ""}${problem.requestId && html`Request <code>${problem.requestId}</code>`}
      </p>
    </div>
  </div>`;
}
