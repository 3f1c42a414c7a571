// Where a picture from outside comes from: its manifest, and whether this service draws the same bytes.

import { api } from "../../api.js";
import { duration } from "../../format.js";
import { readManifest } from "../../png.js";
import { link } from "../../router.js";
import { Button } from "../../ui/button.js";
import { Dialog } from "../../ui/dialog.js";
import { html, useEffect, useState } from "../../ui/html.js";
import { useJob, hasEnded, phaseText } from "../../ui/job.js";
import { Notice, ProblemNotice } from "../../ui/notice.js";
import { Facts } from "../../ui/page.js";
import { schedulerName } from "../studio/controls.js";

/** @param {{ file: File, onClose: () => void }} props */
export function OriginDialog({ file, onClose }) {
  const [found, setFound] = useState(/** @type {any} */ (undefined));
  const [address, setAddress] = useState("");
  useEffect(() => {
    const url = URL.createObjectURL(file);
    setAddress(url);
    setFound(undefined);
    readManifest(file).then(setFound, (cause) => setFound({ damaged: cause.message }));
    return () => URL.revokeObjectURL(url);
  }, [file]);
  return html`<${Dialog} title="Where does this picture come from?" wide class="origin" onClose=${onClose}>
    <div class="one-columns">
      <img class="origin-picture" src=${address} alt=${file.name} />
      <div class="one-side" aria-live="polite">
        ${found === null && html`<${Notice} kind="warn" title="It has no manifest"><p>Either vstar did not make it, or another program removed the manifest. Many do when they save a picture.</p><//>`}
        ${found?.damaged && html`<${Notice} kind="fail" title="Its manifest cannot be read"><p>${found.damaged}</p><//>`}
        ${found?.manifest && html`<${Known} file=${file} manifest=${found.manifest} />`}
      </div>
    </div>
  <//>`;
}

/** @param {{ file: File, manifest: any }} props */
function Known({ file, manifest }) {
  const [tried, setTried] = useState(/** @type {any} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [sample, setSample] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    api.post("v1/samples", { from_manifest: manifest, dry_run: true }, { key: null }).then(({ body }) => setTried(body), setProblem);
  }, []);
  const own = useOwnImage(file, manifest);
  const again = () => api.post("v1/samples", { from_manifest: manifest }).then(({ body }) => setSample(body.id), setProblem);
  return html`${own
      ? html`<${Notice} kind="ok" title="It was drawn here"><p>Every byte is the same as <a href=${link(`/images/${own.id}`)}>this picture</a>.</p><//>`
      : html`<${Notice} title="Made by vstar, according to its manifest">
          <p>Its manifest names the settings below. Anybody can write a manifest: only drawing the picture again proves it.</p>
        <//>`}
    <${Facts}
      rows=${[
        ["Prompt", manifest.prompt],
        ["Negative prompt", manifest.negative_prompt || null],
        ["Seed", html`<span class="number">${String(manifest.seed)}</span>`],
        ["Steps", manifest.num_inference_steps],
        ["Guidance", manifest.guidance_scale],
        ["Scheduler", schedulerName(manifest.scheduler)],
        ["Engine", html`<code>${manifest.engine_version}</code>`],
        ["Precision", manifest.precision],
      ]}
    />
    ${problem && html`<${ProblemNotice} problem=${problem} />`}
    ${tried && !sample && !own && html`<div class="row">
      <${Button} kind="primary" icon="check" onClick=${again}>Draw it again and compare<//>
      <span class="muted">About ${duration(Math.max(1, tried.estimate.run_seconds))}</span>
    </div>`}
    ${sample && html`<${Again} id=${sample} file=${file} />`}`;
}

/**
 * The image of this service that has the same bytes; null until it is found, and if there is none. Where the page may compute no
 * digests, because its address is not a safe one, none is found.
 *
 * @param {File} file @param {any} manifest
 */
function useOwnImage(file, manifest) {
  const [own, setOwn] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let there = true;
    findOwn(file, manifest).then((found) => there && setOwn(found), () => {});
    return () => {
      there = false;
    };
  }, [file]);
  return own;
}

/** @param {File} file @param {any} manifest */
async function findOwn(file, manifest) {
  if (!crypto.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const query = new URLSearchParams({ status: "succeeded", seed: String(manifest.seed), prompt: manifest.prompt.slice(0, 100) });
  const samples = await api.all(`v1/samples?${query}`);
  return samples.flatMap(({ images }) => images).find((image) => image.sha256 === sha256) ?? null;
}

/** Draws the picture again and compares the bytes. @param {{ id: string, file: File }} props */
function Again({ id, file }) {
  const { body: sample, problem } = useJob(`v1/samples/${id}`);
  const [same, setSame] = useState(/** @type {boolean | null} */ (null));
  const image = sample?.images?.[0];
  useEffect(() => {
    if (!image) return;
    Promise.all([api.blob(image.url).then((blob) => blob.arrayBuffer()), file.arrayBuffer()]).then(([mine, theirs]) => setSame(isSame(mine, theirs)), () => setSame(false));
  }, [image?.id]);
  if (problem) return html`<${ProblemNotice} problem=${problem} />`;
  if (sample && hasEnded(sample) && !image) return html`<${ProblemNotice} problem=${sample.error ?? { detail: "It could not be drawn again." }} />`;
  if (same === null) return html`<p class="muted" role="status">${sample ? phaseText(sample) : "Asking"} …</p>`;
  return same
    ? html`<${Notice} kind="ok" title="Every byte is the same"><p>This service made the picture, or one with the same model, concepts and engine did. <a href=${link("/studio", { sample: id })}>Show it in the studio</a></p><//>`
    : html`<${Notice} kind="warn" title="The bytes differ">
        <p>Another version or machine rounds differently, or the picture was changed after it was drawn. <a href=${link("/studio", { sample: id })}>Look at what is drawn here</a></p>
      <//>`;
}

/** @param {ArrayBuffer} one @param {ArrayBuffer} other */
function isSame(one, other) {
  if (one.byteLength !== other.byteLength) return false;
  const [first, second] = [new Uint8Array(one), new Uint8Array(other)];
  return first.every((byte, at) => byte === second[at]);
}
