// Takes the settings out of a picture that is dropped on the page.

import { api } from "../../api.js";
import { pastedFiles } from "../../ui/drop-zone.js";
import { useEffect, useRef, useState } from "../../ui/html.js";
import { deltasOf } from "./concepts.js";
import { fromSample } from "./settings.js";

/** @typedef {import("./concepts.js").Concept} Concept */
/** @typedef {import("./settings.js").Settings} Settings */

/**
 * The settings that a manifest names.
 *
 * The service finds the deltas and the start image by their digests. What it does not have is said in `missing`; the other settings,
 * and the deltas that it has, are taken all the same.
 *
 * @param {any} manifest
 * @param {Concept[]} concepts
 * @returns {Promise<{ settings: Settings, missing: string | null }>}
 */
export async function fromManifest(manifest, concepts) {
  const index = manifest.image_index;
  try {
    const { body } = await api.post("v1/samples", { from_manifest: manifest, dry_run: true }, { key: null });
    const deltas = await deltasOf(body.resolved.deltas.map((/** @type {any} */ used) => used.delta));
    return { settings: fromSample(body.resolved, deltas, concepts, index), missing: null };
  } catch (problem) {
    if (!(problem && typeof problem === "object" && "errors" in problem && /** @type {any} */ (problem).status === 422)) throw problem;
    const { detail } = /** @type {any} */ (problem);
    const here = await deltasHere(manifest);
    const plain = { ...manifest, deltas: here.uses, init_image: null, noise_strength: null, composition: null };
    return { settings: fromSample(plain, here.deltas, concepts, index), missing: `The settings were taken, but the picture cannot be drawn again here: ${detail}` };
  }
}

/**
 * The deltas of a manifest that the service has, by the digests of their files.
 *
 * @param {any} manifest
 * @returns {Promise<{ uses: { delta: string, strength: number }[], deltas: Map<string, any> }>}
 */
async function deltasHere(manifest) {
  const named = Array.isArray(manifest.deltas) ? manifest.deltas : [];
  const found = await Promise.all(
    named.map((/** @type {any} */ { sha256, strength }) =>
      api.get(`v1/deltas?sha256=${encodeURIComponent(sha256)}&order=asc&limit=1`).then(
        ({ body }) => body.data.map((/** @type {any} */ delta) => ({ delta, strength })),
        () => [], // it names no delta
      ),
    ),
  );
  const here = found.flat();
  return {
    uses: here.map(({ delta, strength }) => ({ delta: delta.id, strength })),
    deltas: new Map(here.map(({ delta }) => [delta.id, delta])),
  };
}

/**
 * Files that are dropped anywhere on the page, or pasted into it.
 *
 * @param {(file: File) => void} onFile
 * @returns {{ over: boolean, input: { current: HTMLInputElement | null } }} `over` is true while a file is held above the page;
 *   `input` is for a file field that does the same.
 */
export function useDroppedFile(onFile) {
  const [over, setOver] = useState(false);
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const handler = useRef(onFile);
  handler.current = onFile;
  useEffect(() => {
    const hasFile = (/** @type {DataTransfer | null} */ data) => Boolean(data?.types.includes("Files"));
    const enter = (/** @type {DragEvent} */ event) => {
      if (!hasFile(event.dataTransfer)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (/** @type {DragEvent} */ event) => event.relatedTarget === null && setOver(false);
    const drop = (/** @type {DragEvent} */ event) => {
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (event.defaultPrevented || !file) return;
      event.preventDefault();
      handler.current(file);
    };
    const paste = (/** @type {ClipboardEvent} */ event) => {
      const [file] = pastedFiles(event);
      if (!file) return;
      event.preventDefault();
      handler.current(file);
    };
    addEventListener("dragenter", enter);
    addEventListener("dragover", enter);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    addEventListener("paste", paste);
    return () => {
      removeEventListener("dragenter", enter);
      removeEventListener("dragover", enter);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
      removeEventListener("paste", paste);
    };
  }, []);
  return { over, input };
}
