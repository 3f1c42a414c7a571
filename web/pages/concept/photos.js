/** The photos of a concept: what is on its way, what is there, and how good it is. */
import { html, classes, useCallback, useState } from "../../ui/html.js";
import { plural, size } from "../../format.js";
import { setQuery } from "../../router.js";
import { Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Icon } from "../../ui/icon.js";
import { DropZone } from "../../ui/drop-zone.js";
import { Notice, ProblemNotice } from "../../ui/notice.js";
import { Picture } from "../../ui/picture.js";
import { Skeleton } from "../../ui/empty.js";
import { sentence } from "../../ui/field.js";
import { dismiss, sendAgain, sendPhotos, useUploads } from "../../ui/uploads.js";
import { useCapabilities, useGet } from "../../ui/load.js";
import { PhotoDialog } from "./photo.js";

/** @param {{concept: any, onChange: () => void, trainAt: string, shown?: string}} props `shown` is the id of the photo that is open. */
export function Photos({ concept, onChange, trainAt, shown }) {
  const check = useGet(`v1/concepts/${concept.id}/check`);
  const capabilities = useCapabilities();
  const added = useCallback(() => (check.reload(), onChange()), [check.reload, onChange]);
  const uploads = useUploads(concept.id, added);
  const setShown = (/** @type {string | null} */ photo) => setQuery({ photo });
  const photos = check.body?.data ?? [];
  const open = photos.find((/** @type {any} */ photo) => photo.id === shown);
  const needed = capabilities?.limits.photos_per_training_min ?? 4;
  const enough = photos.length >= needed;

  return html`<div class="stack">
    <${DropZone} compact=${photos.length > 0} title="Drop photos or a zip here, or choose them" hint="PNG, JPEG or WebP. A text file named like a photo becomes its caption." label="Photos" onFiles=${(/** @type {File[]} */ files) => sendPhotos(concept.id, files)} />
    ${uploads.length > 0 && html`<${Uploads} uploads=${uploads} />`}
    <${ProblemNotice} problem=${check.problem} retry=${check.reload} />
    ${!check.body && !check.problem && html`<${Skeleton} rows=${2} height="8rem" />`}
    ${check.body && photos.length > 0 && html`<${Summary} check=${check.body} enough=${enough} needed=${needed} trainAt=${trainAt} trained=${Boolean(concept.current_delta)} />`}
    ${photos.length > 0 &&
    html`<ul class="photo-grid" aria-label="Photos">
      ${photos.map((/** @type {any} */ photo) => html`<${PhotoTile} key=${photo.id} photo=${photo} onOpen=${() => setShown(photo.id)} />`)}
    </ul>`}
    ${check.body && photos.length === 0 && uploads.length === 0 && html`<p class="muted">No photos yet. ${needed} are needed to train; six to ten are better.</p>`}
    ${open &&
    html`<${PhotoDialog}
      concept=${concept}
      photo=${open}
      photos=${photos}
      onShow=${setShown}
      onClose=${() => setShown(null)}
      onChange=${added}
    />`}
  </div>`;
}

/** @param {{check: any, enough: boolean, needed: number, trainAt: string, trained: boolean}} props */
function Summary({ check, enough, needed, trainAt, trained }) {
  const weak = check.data.filter((/** @type {any} */ photo) => photo.photo?.verdict && photo.photo.verdict !== "ok").length;
  const others = check.findings.filter((/** @type {any} */ finding) => finding.code !== "dataset_too_small");
  const kind = !enough ? "warn" : check.verdict === "ok" ? "ok" : "warn";
  const title = !enough
    ? `${check.image_count} of ${needed} photos. ${needed - check.image_count} more ${needed - check.image_count === 1 ? "is" : "are"} needed to train.`
    : weak
      ? `${plural(check.image_count, "photo")}, ${weak} of which could be better`
      : `${plural(check.image_count, "photo")}, all good to learn from`;
  return html`<${Notice} kind=${kind} title=${title} action=${enough && html`<${Button} kind=${trained ? "plain" : "primary"} small href=${trainAt}>${trained ? "Train again" : "Start a training"}<//>`}>
    ${others.map((/** @type {any} */ finding) => html`<p key=${finding.code + finding.detail}>${sentence(finding.detail)}</p>`)}
  <//>`;
}

/** @param {{photo: any, onOpen: () => void}} props */
function PhotoTile({ photo, onOpen }) {
  const { verdict, findings = [], caption, mask } = photo.photo ?? {};
  return html`<li>
    <button type="button" class="photo-tile" onClick=${onOpen}>
      <${Picture} src=${photo.url} alt="" width=${256}>
        ${mask && html`<span class="photo-flag" title="Has a subject mask"><${Icon} name="brush" size=${14} /><span class="visually-hidden">With a mask. </span></span>`}
      <//>
      <span class="photo-line"><${Verdict} verdict=${verdict} /><span class="truncate">${photo.file_name ?? "photo"}</span></span>
      ${findings[0]
        ? html`<span class="photo-note">${sentence(findings[0].detail)}${findings.length > 1 ? ` And ${findings.length - 1} more.` : ""}</span>`
        : html`<span class="photo-note muted">${caption || `${photo.width} × ${photo.height}`}</span>`}
    </button>
  </li>`;
}

const verdictText = (/** @type {string | null | undefined} */ verdict) => ({ ok: "Good", warn: "Could be better", fail: "Not usable" })[verdict ?? ""] ?? "Not checked";

/** @param {{verdict: string | null | undefined}} props */
export function Verdict({ verdict }) {
  const icon = { ok: "check", warn: "warn", fail: "fail" }[verdict ?? ""] ?? "info";
  return html`<span class=${classes("verdict", verdict && `verdict-${verdict}`)} title=${verdictText(verdict)}><${Icon} name=${icon} size=${16} /><span class="visually-hidden">${verdictText(verdict)}: </span></span>`;
}

/** What to do, where the server's own words do not say it. @type {Record<string, string>} */
const REMEDIES = {
  image_flat: "Use a photo of the subject.",
  image_too_small: "Use a larger photo.",
  image_too_large: "Make it smaller first.",
  image_unreadable: "Open it in an image program and export it as JPEG or PNG.",
  duplicate_image: "Nothing needs to be done.",
  too_many_images: "Remove some of the others first.",
};

/** @param {{uploads: import("../../ui/uploads.js").Upload[]}} props */
function Uploads({ uploads }) {
  const ended = uploads.filter((upload) => ["accepted", "rejected", "failed"].includes(upload.state));
  const going = uploads.length - ended.length;
  return html`<${Section}
    class="card uploads"
    title=${going ? `Sending ${plural(going, "file")}` : "Uploads"}
    aside=${ended.length > 0 && html`<${Button} small kind="quiet" onClick=${() => dismiss((upload) => ended.includes(upload))}>Clear<//>`}
  >
    <ul class="plain-list upload-list" aria-live="polite">
      ${uploads.map((upload) => html`<${UploadRow} key=${upload.id} upload=${upload} />`)}
    </ul>
  <//>`;
}

const STATES = { waiting: "Waiting", sending: "Sending", checking: "Looking at it", accepted: "Added", rejected: "Not added", failed: "Not sent" };

/** @param {{upload: import("../../ui/uploads.js").Upload}} props */
function UploadRow({ upload }) {
  const { state, verdict, findings, file } = upload;
  const [isBroken, setBroken] = useState(false);
  const moving = ["waiting", "sending", "checking"].includes(state);
  return html`<li class="upload">
    <span class="upload-picture">${upload.preview && !isBroken ? html`<img src=${upload.preview} alt="" onError=${() => setBroken(true)} />` : html`<${Icon} name="images" />`}</span>
    <span class="upload-text">
      <span class="upload-name"><b class="truncate">${file.name}</b><span class="muted small nowrap">${size(file.size)}</span></span>
      ${moving && html`<span class=${classes("bar", state === "checking" && "bar-unknown")} role="progressbar" aria-label=${`Sending ${file.name}`} aria-valuenow=${Math.round(upload.share * 100)} aria-valuemin="0" aria-valuemax="100"><span style=${{ width: state === "checking" ? undefined : `${upload.share * 100}%` }}></span></span>`}
      ${findings.map((finding) => html`<span key=${finding.detail} class="small">${sentence(finding.detail)} ${REMEDIES[finding.code] ?? ""}</span>`)}
      ${state === "failed" && html`<span class="small">${sentence(upload.problem?.detail ?? "It was not sent.")}</span>`}
    </span>
    <span class="upload-state">
      ${!moving && html`<${Verdict} verdict=${state === "accepted" ? verdict : "fail"} />`}
      <span class="small">${STATES[state]}${state === "accepted" && upload.images.length > 1 ? ` ${upload.images.length}` : ""}</span>
      ${state === "failed" && html`<${Button} small onClick=${() => sendAgain(upload.id)}>Try again<//>`}
    </span>
  </li>`;
}
