/** The figures of a report, each with its interval. */
import { html, classes, useMemo, useState } from "../../ui/html.js";
import { percent, plural, short } from "../../format.js";
import { Section } from "../../ui/page.js";

/** @typedef {{mean: number | null, interval: [number, number] | null, n: number, reason?: string | null}} Estimate */

/** What is measured, from the report's subjects. */
const MEASURES = [
  { name: "text_alignment", title: "Agrees with the prompts", more: "Text-alignment. Higher is better." },
  { name: "image_alignment", title: "Agrees with the photos", more: "Image-alignment. Higher is better; the line is how well the photos agree with each other." },
  { name: "scene", title: "Its own prompt is the nearest", more: "The share of images that are nearer to their own prompt than to the others." },
  { name: "leak", title: "Leaks into other prompts", more: "How well images of prompts without the concept agree with the photos. It should be that of the base model." },
  { name: "share", title: "Of the way to the photos", more: "0 is the base model, 1 is as good as another photo." },
];

/** @param {{report: any}} props */
export function Figures({ report }) {
  const measures = MEASURES.filter(({ name }) => report.subjects.some((/** @type {any} */ subject) => subject[name]?.mean !== null && subject[name]?.mean !== undefined));
  return html`<div class="measures">
      ${measures.map((measure) => html`<${Measure} key=${measure.name} measure=${measure} report=${report} />`)}
    </div>
    <${Verdict} report=${report} />
    <${Prompts} report=${report} />
    ${report.held_out && html`<${Distances} report=${report} />`}`;
}

/** Dots with intervals, one line for each subject, on one scale. @param {{measure: any, report: any}} props */
function Measure({ measure, report }) {
  const estimates = report.subjects.map((/** @type {any} */ subject) => ({ subject, estimate: /** @type {Estimate} */ (subject[measure.name]) }));
  const mark = measure.name === "image_alignment" ? report.photos_alignment : null;
  const { from, to } = useMemo(() => rangeOf(estimates.map((/** @type {any} */ each) => each.estimate), mark), [report]);
  const place = (/** @type {number} */ value) => `${((value - from) / (to - from)) * 100}%`;
  return html`<section class="card measure" aria-label=${measure.title}>
    <div>
      <h2>${measure.title}</h2>
      <p class="muted small">${measure.more}</p>
    </div>
    <div class="measure-rows">
      ${estimates.map(
        (/** @type {any} */ { subject, estimate }) => html`<div key=${subject.name} class=${classes("measure-row", subject.is_base && "measure-base")} title=${estimate.reason ?? undefined}>
          <span class="truncate">${subject.name}</span>
          <span class="measure-line" aria-hidden="true">
            ${mark !== null && html`<s style=${{ left: place(mark) }}></s>`}
            ${estimate.interval && html`<i style=${{ left: place(estimate.interval[0]), width: `${((estimate.interval[1] - estimate.interval[0]) / (to - from)) * 100}%` }}></i>`}
            ${estimate.mean !== null && html`<b style=${{ left: place(estimate.mean) }}></b>`}
          </span>
          <span class="number">${short(estimate.mean)}${estimate.interval && html`<span class="visually-hidden"> (95 % interval ${short(estimate.interval[0])} to ${short(estimate.interval[1])})</span>`}</span>
        </div>`,
      )}
    </div>
    <p class="measure-scale muted small number" aria-hidden="true"><span>${short(from, 2)}</span><span>${short(to, 2)}</span></p>
  </section>`;
}

/** A range that holds all means and intervals, with some room. @param {Estimate[]} estimates @param {number | null} mark */
function rangeOf(estimates, mark) {
  const all = estimates.flatMap(({ mean, interval }) => [mean, ...(interval ?? [])]).concat([mark]);
  const values = /** @type {number[]} */ (all.filter((value) => value !== null && value !== undefined));
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = Math.max((high - low) * 0.08, 0.005);
  // No mean is above 1.
  return { from: low - room, to: high > 1 ? high : Math.min(high + room, Math.max(1, high)) };
}

/** What the figures say, in a sentence. @param {{report: any}} props */
function Verdict({ report }) {
  const base = report.subjects.find((/** @type {any} */ subject) => subject.is_base);
  const others = report.subjects.filter((/** @type {any} */ subject) => !subject.is_base && subject.image_alignment.mean !== null);
  if (!base || !others.length) return null;
  const lines = others.map((/** @type {any} */ subject) => {
    const { mean, interval } = subject.share;
    const photos = !interval
      ? "There are too few images to say whether it is closer to the photos."
      : interval[0] > 0
        ? `It is closer to the photos, by ${percent(mean)} of the way from the base model to another photo.`
        : interval[1] < 0
          ? "It is further from the photos."
          : "It is not clear whether it is closer to the photos: the interval contains the base model.";
    const prompts = apart(subject.text_alignment, base.text_alignment);
    const text = prompts === 0 ? "It follows the prompts as well, as far as the images can tell." : prompts > 0 ? "It follows the prompts better." : "It follows the prompts less well.";
    return `${subject.name}, compared with the base model: ${photos} ${text}`;
  });
  return html`<div class="stack-small">${lines.map((/** @type {string} */ line) => html`<p key=${line}>${line}</p>`)}</div>`;
}

/** 1 or -1 if the interval of the first lies above or below that of the second, 0 if they overlap. @param {Estimate} one @param {Estimate} other */
function apart(one, other) {
  if (!one.interval || !other.interval) return 0;
  return one.interval[0] > other.interval[1] ? 1 : one.interval[1] < other.interval[0] ? -1 : 0;
}

/** Prompt by prompt, all subjects beside each other. @param {{report: any}} props */
function Prompts({ report }) {
  const [measure, setMeasure] = useState("image_alignment");
  const rows = report.subjects[0]?.prompts ?? [];
  return html`<${Section}
    title="Prompt by prompt"
    aside=${html`<div class="segments" role="group" aria-label="Measure">
      ${[["image_alignment", "Photos"], ["text_alignment", "Prompt"]].map(([name, text]) => html`<button type="button" key=${name} aria-pressed=${measure === name ? "true" : "false"} onClick=${() => setMeasure(name)}>${text}</button>`)}
    </div>`}
  >
    <div class="table-box" tabindex="0" role="region" aria-label="Figures of each prompt">
      <table class="table">
        <thead>
          <tr><th scope="col">Prompt</th>${report.subjects.map((/** @type {any} */ subject) => html`<th key=${subject.name} scope="col" class="number">${subject.name}</th>`)}</tr>
        </thead>
        <tbody>
          ${rows.map((/** @type {any} */ row, /** @type {number} */ index) => {
            const values = report.subjects.map((/** @type {any} */ subject) => subject.prompts[index]?.[measure]?.mean ?? null);
            const best = Math.max(...values.filter((/** @type {any} */ value) => value !== null));
            return html`<tr key=${row.prompt}>
              <th scope="row">${row.prompt}</th>
              ${values.map((/** @type {any} */ value, /** @type {number} */ at) => html`<td key=${at} class=${classes("number", value === best && values.length > 1 && "is-best")}>${short(value)}</td>`)}
            </tr>`;
          })}
        </tbody>
      </table>
    </div>
  <//>`;
}

/** @param {{report: any}} props */
function Distances({ report }) {
  const shown = (/** @type {any} */ kid) => (kid?.value === null || kid?.value === undefined ? html`<span title=${kid?.reason}>–</span>` : `${short(kid.value)}${kid.std === null ? "" : ` ± ${short(kid.std, 2)}`}`);
  return html`<${Section} title="Distance from real images" lead=${`Kernel inception distance from ${plural(report.held_out.count, "held-out image")}. Lower is better.`}>
    <div class="table-box" tabindex="0" role="region" aria-label="Distances">
      <table class="table">
        <thead><tr><th scope="col">Subject</th><th scope="col" class="number">Prompts with the concept</th><th scope="col" class="number">Other prompts</th></tr></thead>
        <tbody>
          ${report.subjects.map((/** @type {any} */ subject) => html`<tr key=${subject.name}><th scope="row">${subject.name}</th><td class="number">${shown(subject.kid?.named)}</td><td class="number">${shown(subject.kid?.unnamed)}</td></tr>`)}
        </tbody>
      </table>
    </div>
  <//>`;
}
