/**
 * Photos on their way to a concept.
 *
 * They belong to no page, so that an upload goes on while another page is shown. Files of a tab that is closed or reloaded are
 * lost; what has arrived by then is there.
 */
import { useEffect, useState } from "./html.js";
import { Problem, api, idempotencyKey } from "../api.js";

/**
 * @typedef {{code: string, detail: string, verdict: string}} Finding
 * @typedef {{
 *   id: number, concept: string, file: File, caption: string | null, key: string, share: number,
 *   state: "waiting" | "sending" | "checking" | "accepted" | "rejected" | "failed",
 *   preview: string | null, verdict: string | null, findings: Finding[], images: any[], problem: any
 * }} Upload
 */

/** @type {Upload[]} */
let uploads = [];
let next = 1;
/** @type {Set<() => void>} */
const listeners = new Set();
/** @type {Map<string, Set<() => void>>} */
const whenAdded = new Map();
const AT_ONCE = 2;

/** @param {number} id @param {Partial<Upload>} change */
function change(id, change) {
  uploads = uploads.map((upload) => (upload.id === id ? { ...upload, ...change } : upload));
  listeners.forEach((listener) => listener());
}

const isPicture = (/** @type {File} */ file) => file.type.startsWith("image/") && !/hei[cf]|avif|svg/.test(file.type);
const isCaption = (/** @type {File} */ file) => /\.(txt|caption)$/i.test(file.name);
const stem = (/** @type {string} */ name) => name.replace(/\.[^.]*$/, "");

/**
 * Sends files to a concept, two at a time. A text file gives the caption of the photo that is named like it.
 *
 * @param {string} concept
 * @param {File[]} files
 */
export async function sendPhotos(concept, files) {
  const captions = new Map();
  for (const file of files.filter(isCaption)) captions.set(stem(file.name), { text: await file.text(), file });
  const photos = files.filter((file) => !isCaption(file));
  /** @type {Upload[]} */
  const added = photos.map((file) => {
    const caption = captions.get(stem(file.name))?.text.replace(/\s+/g, " ").trim() || null;
    captions.delete(stem(file.name));
    return {
      id: next++, concept, file, caption, key: idempotencyKey(), share: 0, state: "waiting",
      preview: isPicture(file) ? URL.createObjectURL(file) : null, verdict: null, findings: [], images: [], problem: null,
    };
  });
  for (const { file } of captions.values()) {
    added.push({
      id: next++, concept, file, caption: null, key: "", share: 1, state: "rejected", preview: null, verdict: "fail", images: [], problem: null,
      findings: [{ code: "unmatched_file", verdict: "fail", detail: `no photo here is named like this text: name it as the photo whose caption it is, such as 1.txt for 1.jpg` }],
    });
  }
  uploads = [...uploads, ...added];
  listeners.forEach((listener) => listener());
  pump();
}

function pump() {
  const busy = uploads.filter((upload) => ["sending", "checking"].includes(upload.state)).length;
  for (const upload of uploads.filter((each) => each.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy))) {
    change(upload.id, { state: "sending" });
    send(upload).then(pump);
  }
}

/** @param {Upload} upload */
async function send(upload) {
  const form = new FormData();
  form.append("files", upload.file, upload.file.name);
  if (upload.caption) form.append("captions", upload.caption);
  try {
    const { body } = await api.upload(
      `v1/concepts/${upload.concept}/images`,
      form,
      (share) => change(upload.id, share < 1 ? { share } : { share: 1, state: "checking" }),
      { key: upload.key },
    );
    const archive = body.data.length !== 1 || /\.zip$/i.test(upload.file.name);
    const findings = archive
      ? body.data.flatMap((/** @type {any} */ each) =>
          each.findings.map((/** @type {Finding} */ finding) => ({ ...finding, detail: `${each.file_name}: ${finding.detail}` })))
      : body.data[0].findings;
    const ignored = (body.ignored ?? []).map((/** @type {any} */ file) => ({ code: "ignored", verdict: "ok", detail: `${file.path}: ${file.detail}` }));
    change(upload.id, {
      state: body.accepted ? "accepted" : "rejected",
      verdict: archive && body.accepted && body.verdict === "fail" ? "warn" : body.verdict,
      findings: [...findings, ...ignored],
      images: body.data.filter((/** @type {any} */ each) => each.image).map((/** @type {any} */ each) => each.image),
    });
    whenAdded.get(upload.concept)?.forEach((listener) => listener());
    // Of a photo that is good there is nothing to say: it stands among the others.
    dismiss(({ id, state, verdict, findings }) => id === upload.id && state === "accepted" && verdict === "ok" && !findings.length);
  } catch (problem) {
    if (problem instanceof Problem && problem.status === 422) {
      const errors = problem.errors.length ? problem.errors : [{ code: problem.code, detail: problem.detail }];
      change(upload.id, { state: "rejected", verdict: "fail", findings: errors.map(({ code, detail }) => ({ code, detail, verdict: "fail" })) });
    } else {
      change(upload.id, { state: "failed", problem });
    }
  }
}

/** Sends a failed upload again. */
export function sendAgain(/** @type {number} */ id) {
  change(id, { state: "waiting", share: 0, problem: null });
  pump();
}

/** Takes entries that have ended off the list. @param {(upload: Upload) => boolean} which */
export function dismiss(which) {
  for (const upload of uploads) if (which(upload) && upload.preview) URL.revokeObjectURL(upload.preview);
  uploads = uploads.filter((upload) => !which(upload));
  listeners.forEach((listener) => listener());
}

/**
 * The uploads of a concept. `onAdded` is called after each that has added a photo.
 *
 * @param {string | null} concept
 * @param {() => void} [onAdded]
 * @returns {Upload[]}
 */
export function useUploads(concept, onAdded) {
  const [, render] = useState(0);
  useEffect(() => {
    const listener = () => render((/** @type {number} */ count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  useEffect(() => {
    if (!concept || !onAdded) return;
    const set = whenAdded.get(concept) ?? new Set();
    whenAdded.set(concept, set);
    set.add(onAdded);
    return () => void set.delete(onAdded);
  }, [concept, onAdded]);
  return uploads.filter((upload) => upload.concept === concept);
}

addEventListener("beforeunload", (event) => {
  if (uploads.some((upload) => ["waiting", "sending"].includes(upload.state))) event.preventDefault();
});
