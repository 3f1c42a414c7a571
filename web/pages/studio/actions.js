// What can be done with a picture.

import { api } from "../../api.js";
import { Button } from "../../ui/button.js";
import { CopyButton, CopyCurl, curl, toClipboard } from "../../ui/copy.js";
import { Dialog, confirm } from "../../ui/dialog.js";
import { html, useEffect, useRef, useState } from "../../ui/html.js";
import { Icon } from "../../ui/icon.js";
import { toast, toastProblem } from "../../ui/toast.js";

/** @typedef {import("../../api-types").components["schemas"]["ImageBody"]} Image */

/**
 * @param {object} props
 * @param {Image} props.image
 * @param {any} props.sample The sample that has drawn it, if it is known.
 * @param {string} props.name
 * @param {boolean} props.isCompared
 * @param {() => void} props.onTake
 * @param {() => void} props.onVary
 * @param {() => void} props.onStartFrom
 * @param {() => void} props.onCompare
 * @param {() => void} props.onGone
 */
export function ImageActions({ image, name, isCompared, onTake, onVary, onStartFrom, onCompare, onGone }) {
  const [manifest, setManifest] = useState(/** @type {any} */ (null));
  const show = () => api.get(`v1/images/${image.id}/manifest`).then(({ body }) => setManifest(body), toastProblem);
  return html`<div class="actions">
    <${Button} small kind="quiet" icon="edit" onClick=${onTake}>Use<//>
    <${Button} small kind="quiet" icon="refresh" onClick=${onVary}>Vary<//>
    <${Button} small kind="quiet" icon="compare" aria-pressed=${isCompared ? "true" : "false"} onClick=${onCompare}>Compare<//>
    <${Menu} label=${`More for ${name}`}>
      <button type="button" onClick=${onStartFrom}><${Icon} name="images" size=${16} />Start from it</button>
      <button type="button" onClick=${() => download(image)}><${Icon} name="download" size=${16} />Download</button>
      <button type="button" onClick=${show}><${Icon} name="info" size=${16} />Manifest</button>
      <button type="button" onClick=${() => copyAsCurl(image)}><${Icon} name="copy" size=${16} />Copy as curl</button>
      <button type="button" class="is-danger" onClick=${() => remove(image, onGone)}><${Icon} name="trash" size=${16} />Delete</button>
    <//>
    ${manifest && html`<${ManifestDialog} manifest=${manifest} name=${image.id} onClose=${() => setManifest(null)} />`}
  </div>`;
}

/** A menu that closes when something in it is chosen, or elsewhere. @param {{ label: string, children?: any }} props */
export function Menu({ label, children }) {
  const menu = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  useEffect(() => {
    const close = (/** @type {Event} */ event) => {
      if (menu.current?.open && !menu.current.contains(/** @type {Node} */ (event.target))) menu.current.open = false;
    };
    const escape = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape" || !menu.current?.open) return;
      menu.current.open = false;
      menu.current.querySelector("summary")?.focus();
    };
    addEventListener("pointerdown", close);
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("pointerdown", close);
      removeEventListener("keydown", escape);
    };
  }, []);
  return html`<details ref=${menu} class="menu">
    <summary class="button button-quiet button-small button-icon" aria-label=${label} title=${label}><${Icon} name="more" size=${20} /></summary>
    <div class="menu-list" onClick=${() => menu.current && (menu.current.open = false)}>${children}</div>
  </details>`;
}

/** @param {{ manifest: any, name: string, onClose: () => void }} props */
export function ManifestDialog({ manifest, name, onClose }) {
  const text = JSON.stringify(manifest, null, 2);
  return html`<${Dialog}
    title="Manifest"
    wide
    onClose=${onClose}
    actions=${html`<${CopyButton} small=${false} text=${text}>Copy<//>
      <${CopyCurl} small=${false} path="v1/samples" body=${{ from_manifest: manifest }} />
      <${Button} icon="download" kind="primary" onClick=${() => save(new Blob([text], { type: "application/json" }), `${name}.json`)}>Download<//>`}
  >
    <p class="muted">With this, the service draws the same picture again, to the last byte.</p>
    <pre class="code" tabindex="0">${text}</pre>
  <//>`;
}

/** Hands a file to the browser's downloads. */
export function save(/** @type {Blob} */ blob, /** @type {string} */ name) {
  const address = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Downloads the PNG as it is, with its manifest. */
export function download(/** @type {Image} */ image) {
  return api.blob(`${image.url}`).then((blob) => save(blob, `${image.id}.png`), toastProblem);
}

/** Copies the request that draws this picture again. */
async function copyAsCurl(/** @type {Image} */ image) {
  try {
    const { body } = await api.get(`v1/images/${image.id}/manifest`);
    await toClipboard(curl("POST", "v1/samples", { from_manifest: body }));
    toast("Copied as a curl command");
  } catch (problem) {
    toastProblem(problem);
  }
}

/** Asks, then deletes an image. */
export async function remove(/** @type {Image} */ image, /** @type {() => void} */ onGone) {
  const gone = await confirm({
    title: "Delete this picture?",
    text: html`<p>It will be gone. With its settings it can be drawn again.</p>`,
    yes: "Delete",
    danger: true,
    action: () => api.delete(`v1/images/${image.id}`),
  });
  if (gone) {
    toast("Deleted");
    onGone();
  }
}
