// One image, large, with how it was made.

import { api } from "../../api.js";
import { size, time } from "../../format.js";
import { link, navigate } from "../../router.js";
import { Button } from "../../ui/button.js";
import { Dialog } from "../../ui/dialog.js";
import { html, useEffect, useState } from "../../ui/html.js";
import { useGet } from "../../ui/load.js";
import { ProblemNotice } from "../../ui/notice.js";
import { Facts } from "../../ui/page.js";
import { Picture } from "../../ui/picture.js";
import { ManifestDialog, download, remove } from "../studio/actions.js";
import { schedulerName } from "../studio/controls.js";
import { toastProblem } from "../../ui/toast.js";

/**
 * @param {object} props
 * @param {string} props.id
 * @param {{ image: any, sample: any }[]} props.drawn The images of the list, to go to the one before and after.
 * @param {Record<string, string>} props.query
 * @param {boolean} props.isSmall
 * @param {() => void} props.onClose
 * @param {(id: string) => void} props.onGone
 */
export function ImageDialog({ id, drawn, query, isSmall, onClose, onGone }) {
  const { body: image, problem } = useGet(`v1/images/${id}`);
  const { body: sample } = useGet(image?.sample ? `v1/samples/${image.sample}` : null);
  const [manifest, setManifest] = useState(/** @type {any} */ (null));
  const at = drawn.findIndex((one) => one.image.id === id);
  const go = (/** @type {number} */ by) => {
    const next = at < 0 ? undefined : drawn[at + by];
    if (next) navigate(`/images/${next.image.id}`, { query, replace: true });
  };
  useEffect(() => {
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      if (/** @type {Element} */ (event.target).matches("input, textarea, select")) return;
      if (event.key === "ArrowLeft") go(-1);
      if (event.key === "ArrowRight") go(1);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
  const show = () => api.get(`v1/images/${id}/manifest`).then(({ body }) => setManifest(body), toastProblem);
  return html`<${Dialog} title=${sample?.prompt ?? "Picture"} wide class="one" onClose=${onClose}>
    <${ProblemNotice} problem=${problem} />
    ${image &&
    html`<div class="one-columns">
      <div class="one-picture">
        <${Picture} key=${id} src=${image.url} alt=${sample?.prompt ?? "Picture"} ratio=${image.width / image.height} pixelated=${isSmall} />
        <div class="one-steps">
          <${Button} kind="quiet" small icon="back" label="The one before" disabled=${at <= 0} onClick=${() => go(-1)} />
          <${Button} kind="quiet" small icon="forward" label="The next one" disabled=${at < 0 || at >= drawn.length - 1} onClick=${() => go(1)} />
        </div>
      </div>
      <div class="one-side">
        ${sample &&
        html`<${Facts}
          rows=${[
            ["Seed", html`<span class="number">${sample.seed}${image.index ? `, picture ${image.index + 1}` : ""}</span>`],
            ["Steps", sample.num_inference_steps],
            ["Guidance", sample.guidance_scale],
            ["Scheduler", schedulerName(sample.scheduler)],
            ["Negative prompt", sample.negative_prompt || null],
            ["Size", `${image.width} × ${image.height}, ${size(image.size_bytes)}`],
            ["Drawn", time(image.created_at)],
          ]}
        />`}
        <div class="row">
          ${image.sample &&
          html`<${Button} kind="primary" icon="edit" href=${link("/studio", { image: id })}>Use its settings<//>
            <${Button} icon="studio" href=${link("/studio", { sample: image.sample })}>Show in the studio<//>`}
        </div>
        <div class="row">
          <${Button} small kind="quiet" icon="download" onClick=${() => download(image)}>Download<//>
          ${image.sample && html`<${Button} small kind="quiet" icon="info" onClick=${show}>Manifest<//>`}
          <${Button} small kind="quiet" icon="trash" onClick=${() => remove(image, () => onGone(id))}>Delete<//>
        </div>
      </div>
    </div>`}
    ${manifest && html`<${ManifestDialog} manifest=${manifest} name=${id} onClose=${() => setManifest(null)} />`}
  <//>`;
}
