/** What the project uses of what it may have, and the limits of the service. */
import { html } from "../../ui/html.js";
import { count, size } from "../../format.js";
import { Facts, Section } from "../../ui/page.js";
import { Skeleton } from "../../ui/empty.js";
import { ProblemNotice } from "../../ui/notice.js";
import { Bar } from "../../ui/job.js";
import { useCapabilities, useGet } from "../../ui/load.js";

export function Usage() {
  const usage = useGet("v1/usage", { every: 10 });
  const can = useCapabilities();
  const used = usage.body;
  return html`<${Section} title="In use" lead="What your project has of what it may have.">
      <${ProblemNotice} problem=${usage.problem} retry=${usage.reload} />
      ${!used && !usage.problem && html`<${Skeleton} rows=${3} height="4rem" />`}
      ${used &&
      html`<div class="usage">
        <${Used} label="Stored" value=${used.stored_bytes} limit=${used.quotas.max_stored_bytes} text=${size} />
        <${Used} label="Concepts" value=${used.concepts} limit=${used.quotas.max_concepts} text=${count} />
        <${Used} label="Jobs that wait or run" value=${used.queued_jobs + used.running_jobs} limit=${used.quotas.max_active_jobs} text=${count} />
      </div>
      <${Facts}
        rows=${[
          ["Images and photos", count(used.images)],
          ["Deltas", count(used.deltas)],
          ["Image sets", count(used.image_sets)],
          ["Running jobs", count(used.running_jobs)],
          ["Waiting jobs", count(used.queued_jobs)],
        ]}
      />`}
    <//>
    ${can &&
    html`<${Section} title="This service">
      <${Facts}
        rows=${[
          ["Version", can.version],
          ["Base model", can.base_model.name],
          ["Size of images", `${can.base_model.native_size} × ${can.base_model.native_size}`],
          ["Evaluator", can.evaluator?.name ?? "none: evaluations are refused"],
          ["Photos of a concept", `${can.limits.photos_per_training_min} to ${can.limits.photos_per_concept_max}`],
          ["Largest photo", size(can.limits.photo_bytes_max)],
          ["Concepts in one training", `up to ${can.limits.concepts_per_training_max}`],
          ["Concepts in one image", `up to ${can.limits.deltas_per_sample_max}`],
          ["Images of one request", `up to ${can.limits.images_per_sample_max}`],
        ]}
      />
    <//>`}`;
}

/** @param {{label: string, value: number, limit: number | null, text: (value: number) => string}} props */
function Used({ label, value, limit, text }) {
  const part = limit ? value / limit : null;
  return html`<div class="card usage-card">
    <p class="muted small">${label}</p>
    <p class="usage-value"><b>${text(value)}</b> ${limit ? html`<span class="muted">of ${text(limit)}</span>` : html`<span class="muted">no limit</span>`}</p>
    ${part !== null && html`<${Bar} value=${Math.min(1, part)} label=${`${label}: share of the limit`} kind=${part > 0.9 ? "lost" : undefined} />`}
  </div>`;
}
