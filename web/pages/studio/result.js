// A sample: what it is drawn with, previews while it runs, then its images.

import { api } from "../../api.js";
import { duration, plural, shortId } from "../../format.js";
import { link } from "../../router.js";
import { Button } from "../../ui/button.js";
import { confirm } from "../../ui/dialog.js";
import { sentence } from "../../ui/field.js";
import { classes, html, useEffect, useState } from "../../ui/html.js";
import { Bar, cancelJob, hasEnded, phaseText, share, useJob } from "../../ui/job.js";
import { Notice, Warnings } from "../../ui/notice.js";
import { Picture } from "../../ui/picture.js";
import { schedulerName } from "./controls.js";
import { ImageActions } from "./actions.js";

/** @typedef {import("../../api-types").components["schemas"]["SampleBody"]} Sample */
/** @typedef {import("../../api-types").components["schemas"]["ImageBody"]} Image */

/** Sides up to which a picture is shown with its pixels as they are. */
const PIXEL_ART = 128;

/**
 * @param {object} props
 * @param {string} props.id
 * @param {(sample: Sample, index: number | null) => void} props.onTake
 * @param {(sample: Sample, index: number) => void} props.onVary
 * @param {(image: Image) => void} props.onStartFrom
 * @param {string[]} props.compared Ids of the images that were chosen to be compared.
 * @param {(image: Image) => void} props.onCompare
 * @param {() => void} props.onGone The sample was deleted.
 * @param {(sample: Sample) => void} props.onChange The sample has changed.
 */
export function Result({ id, onTake, onVary, onStartFrom, compared, onCompare, onGone, onChange }) {
  const { body: sample, problem, lost, reload } = useJob(`v1/samples/${id}`);
  useEffect(() => {
    if (sample) onChange(sample);
  }, [sample]);
  if (problem) {
    return html`<${Notice} kind="fail" action=${html`<${Button} small onClick=${onGone}>Close<//>`}>
      <p>${problem.status === 404 || problem.status === 410 ? "These pictures have been deleted." : sentence(problem.detail)}</p>
    <//>`;
  }
  if (!sample) return html`<div class="result-wait" aria-busy="true"></div>`;

  const running = !hasEnded(sample);
  const slots = Array.from({ length: sample.n }, (_, at) => sample.first_index + at);
  const remove = async () => {
    const gone = await confirm({
      title: "Delete these pictures?",
      text: html`<p>${plural(sample.images.length, "picture")} of “${sample.prompt}” and what is known about how they were made will be gone.</p>`,
      yes: "Delete",
      danger: true,
      action: () => api.delete(`v1/samples/${id}?cascade=true`),
    });
    if (gone) onGone();
  };

  return html`<article class="result" aria-busy=${running ? "true" : "false"} data-status=${sample.status}>
    <header class="result-head">
      <h2>${sample.prompt}</h2>
      <p class="result-facts">
        ${[
          `seed ${sample.seed}`,
          plural(sample.num_inference_steps, "step"),
          `guidance ${sample.guidance_scale}`,
          schedulerName(sample.scheduler),
          `${sample.width} × ${sample.height}`,
          sample.finished_at && sample.first_step_at && duration((Date.parse(sample.finished_at) - Date.parse(sample.first_step_at)) / 1000),
        ]
          .filter(Boolean)
          .join(" · ")}
      </p>
      <div class="result-tools">
        ${running
          ? html`<${Button} small icon="stop" onClick=${() => cancelJob(sample, reload)} disabled=${sample.status === "canceling"}>Cancel<//>`
          : html`<${Button} small icon="edit" onClick=${() => onTake(sample, null)}>Take all settings<//>
              <${Button} small kind="quiet" icon="trash" label="Delete these pictures" onClick=${remove} />`}
      </div>
    </header>
    ${running && html`<${Running} sample=${sample} lost=${lost} />`}
    ${sample.status === "failed" && html`<${Notice} kind="fail" title=${sample.error?.title}><p>${sentence(sample.error?.detail ?? "The server did not say why.")}</p><//>`}
    ${sample.status === "succeeded" && !sample.images.length && html`<${Notice}><p>Its pictures have been deleted. With its settings they can be drawn again.</p><//>`}
    ${sample.status === "canceled" && html`<${Notice}><p>This was canceled before its pictures were ready.</p><//>`}
    <${Warnings} warnings=${sample.warnings} />
    ${(running || sample.images.length > 0) &&
    html`<ul class=${classes("result-grid", sample.n === 1 && "is-one")}>
      ${slots.map((index) => html`<${Slot} key=${index} ...${{ sample, index, running, onTake, onVary, onStartFrom, compared, onCompare, reload }} />`)}
    </ul>`}
  </article>`;
}

/** @param {{ sample: Sample, lost: boolean }} props */
function Running({ sample, lost }) {
  const { progress, status } = sample;
  const steps = status === "running" && progress?.total_steps;
  return html`<div class="result-running" role="status">
    <${Bar} value=${share(sample)} label="Progress" kind=${lost ? "lost" : undefined} />
    <span>
      ${lost ? "Connection lost, trying again" : phaseText(sample)}${steps && !lost
        ? `, step ${progress.step} of ${progress.total_steps}${progress.eta_seconds ? `, ${duration(progress.eta_seconds)} left` : ""}`
        : ""}
    </span>
  </div>`;
}

/**
 * One picture of a sample: nothing yet, a preview, or the image.
 *
 * @param {any} props Those of `Result`, and the sample, the index of the picture, whether the sample runs, and `reload`.
 */
function Slot({ sample, index, running, onTake, onVary, onStartFrom, compared, onCompare, reload }) {
  /** @type {Image | undefined} */
  const image = sample.images.find((/** @type {Image} */ one) => one.index === index);
  const preview = running && sample.progress?.previews?.find((/** @type {any} */ one) => one.index === index);
  const isSmall = Math.max(sample.width, sample.height) <= PIXEL_ART;
  const shape = { aspectRatio: `${sample.width} / ${sample.height}` };
  if (!image && !running) return null;
  const alt = `${sample.prompt}, picture ${index + 1}`;
  return html`<li class=${classes("slot", image && compared.includes(image.id) && "is-compared")}>
    <div class=${classes("slot-picture", !image && "is-coming")} style=${shape}>
      ${image
        ? html`<a href=${link(`/images/${image.id}`)} title="Show it large"><${Picture} src=${image.url} alt=${alt} ratio=${sample.width / sample.height} pixelated=${isSmall} /></a>`
        : preview
          ? html`<${Preview} path=${`v1/samples/${sample.id}/previews/${index}`} step=${preview.step} alt=${`Preview of ${alt}`} />`
          : html`<span class="slot-wait" aria-hidden="true"></span>`}
      ${preview && !image && html`<span class="slot-step">Preview at step ${preview.step}</span>`}
    </div>
    ${image &&
    html`<${ImageActions}
      image=${image}
      sample=${sample}
      name=${shortId(image.id)}
      isCompared=${compared.includes(image.id)}
      onTake=${() => onTake(sample, index)}
      onVary=${() => onVary(sample, index)}
      onStartFrom=${() => onStartFrom(image)}
      onCompare=${() => onCompare(image)}
      onGone=${reload}
    />`}
  </li>`;
}

/**
 * The newest preview. The former one stays until it is there.
 *
 * @param {{ path: string, step: number, alt: string }} props
 */
function Preview({ path, step, alt }) {
  const [url, setUrl] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    let gone = false;
    // A preview is deleted when its sample ends, so one that is missing is no fault.
    api.blob(path).then((blob) => gone || setUrl(URL.createObjectURL(blob)), () => {});
    return () => {
      gone = true;
    };
  }, [path, step]);
  useEffect(() => () => (url ? URL.revokeObjectURL(url) : undefined), [url]);
  return url ? html`<img class="slot-preview" src=${url} alt=${alt} />` : html`<span class="slot-wait" aria-hidden="true"></span>`;
}
