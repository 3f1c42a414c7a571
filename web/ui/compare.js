// Two pictures on top of each other, with a divider that moves, and what differs in how they were made.

import { api } from "../api.js";
import { Dialog } from "./dialog.js";
import { html, useEffect, useState } from "./html.js";
import { ProblemNotice } from "./notice.js";
import { Picture } from "./picture.js";

/** @typedef {{ id: string, url: string, width?: number, height?: number, label?: string }} Compared */

/** @param {{ first: Compared, second: Compared, onClose: () => void }} props */
export function CompareDialog({ first, second, onClose }) {
  const ratio = (first.width ?? 1) / (first.height ?? 1);
  const isSmall = Math.max(first.width ?? 512, second.width ?? 512) <= 128;
  const [at, setAt] = useState(50);
  const [manifests, setManifests] = useState(/** @type {any[] | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  useEffect(() => {
    Promise.all([first, second].map(({ id }) => api.get(`v1/images/${id}/manifest`))).then(
      (answers) => setManifests(answers.map(({ body }) => body)),
      setProblem,
    );
  }, [first.id, second.id]);
  return html`<${Dialog} title="Compare" wide onClose=${onClose}>
    <div class="compare">
      <div class="compare-pictures" style=${{ "--at": `${at}%` }}>
        <${Picture} src=${second.url} ratio=${ratio} pixelated=${isSmall} alt=${`Second picture${second.label ? `: ${second.label}` : ""}`} />
        <div class="compare-first"><${Picture} src=${first.url} ratio=${ratio} pixelated=${isSmall} alt=${`First picture${first.label ? `: ${first.label}` : ""}`} /></div>
        <span class="compare-line" aria-hidden="true"></span>
        <input
          type="range"
          min="0"
          max="100"
          value=${at}
          aria-label="How much of the first picture is shown, in percent"
          onInput=${(/** @type {any} */ event) => setAt(Number(event.currentTarget.value))}
        />
      </div>
      <div class="compare-names"><span>First</span><span>Second</span></div>
      <${ProblemNotice} problem=${problem} />
      ${manifests && html`<${Differences} first=${manifests[0]} second=${manifests[1]} />`}
    </div>
  <//>`;
}

/** What is said about how a picture was made, in the order of the table. */
const ROWS = {
  prompt: "Prompt",
  negative_prompt: "Negative prompt",
  seed: "Seed",
  image_index: "Image of the seed",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  scheduler: "Scheduler",
  width: "Width",
  height: "Height",
  deltas: "Concepts",
  composition: "Composition",
  merge: "Merge",
  init_image: "Start image",
  eta: "Eta",
  guidance_interval: "Guidance applied",
  unconditional_strength: "Strength in negative prompt",
  base_model: "Base model",
  precision: "Precision",
  engine_version: "Engine",
};

/** @param {{ first: any, second: any }} props */
function Differences({ first, second }) {
  const rows = Object.entries(ROWS).filter(([name]) => JSON.stringify(first[name] ?? null) !== JSON.stringify(second[name] ?? null));
  if (!rows.length) return html`<p class="muted">Both were made with the same settings.</p>`;
  return html`<table class="compare-table">
    <caption>
      What differs
    </caption>
    <thead>
      <tr>
        <th scope="col">Setting</th>
        <th scope="col">First</th>
        <th scope="col">Second</th>
      </tr>
    </thead>
    <tbody>
      ${rows.map(
        ([name, label]) => html`<tr key=${name}>
          <th scope="row">${label}</th>
          <td>${said(first[name])}</td>
          <td>${said(second[name])}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** A value of a manifest, short enough for a cell. @param {any} value */
function said(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value) && value[0]?.sha256) return value.map(({ sha256, strength }) => `${sha256.slice(0, 8)} × ${strength}`).join(", ");
  if (value.sha256) return `${value.sha256.slice(0, 8)}, strength ${value.noise_strength}`;
  if (value.method) return [value.method, value.constraint_weight && `weight ${value.constraint_weight}`].filter(Boolean).join(", ");
  if (typeof value === "string" && /^[0-9a-f]{64}$/.test(value)) return value.slice(0, 8);
  return Array.isArray(value) ? value.join(" to ") : String(value);
}
