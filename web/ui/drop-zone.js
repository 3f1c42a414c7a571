/** Where files are dropped, pasted or picked. */
import { html, classes, useEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";

/** The files that are pasted. None where a text is pasted into a field: programs put a picture of it beside it. @param {ClipboardEvent} event */
export function pastedFiles(event) {
  const isText = event.clipboardData?.types.includes("text/plain") && /** @type {Element} */ (event.target).matches?.("input, textarea");
  return isText ? [] : [...(event.clipboardData?.files ?? [])];
}

/** Dropped folders are read to their files. @param {DataTransfer} transfer @returns {Promise<File[]>} */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  /** @param {any} entry @returns {Promise<File[]>} */
  const read = async (entry) => {
    if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      /** @type {any[]} */
      const batch = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!batch.length) return found;
      for (const inner of batch) found.push(...(await read(inner)));
    }
  };
  return (await Promise.all(entries.map(read))).flat().filter((file) => !file.name.startsWith("."));
}

/**
 * @param {{onFiles: (files: File[]) => void, accept?: string, multiple?: boolean, title: any, hint?: any, compact?: boolean,
 *   icon?: string, paste?: boolean, label?: string}} props `paste` takes pictures that are pasted anywhere on the page
 */
export function DropZone({ onFiles, accept = "image/png,image/jpeg,image/webp,.zip,.txt", multiple = true, title, hint, compact, icon = "upload", paste = true, label }) {
  const input = useRef(/** @type {any} */ (null));
  const [over, setOver] = useState(false);
  const take = (/** @type {File[]} */ files) => files.length && onFiles(multiple ? files : files.slice(0, 1));
  const latest = useRef(take);
  latest.current = take;

  useEffect(() => {
    const stop = (/** @type {DragEvent} */ event) => event.preventDefault(); // A file beside the zone must not leave the page.
    const pasted = (/** @type {ClipboardEvent} */ event) => {
      const files = pastedFiles(event);
      if (!files.length) return;
      event.preventDefault();
      latest.current(files);
    };
    addEventListener("dragover", stop);
    addEventListener("drop", stop);
    if (paste) addEventListener("paste", pasted);
    return () => {
      removeEventListener("dragover", stop);
      removeEventListener("drop", stop);
      removeEventListener("paste", pasted);
    };
  }, [paste]);

  return html`<div
    class=${classes("drop", compact && "drop-compact", over && "drop-over")}
    onDragOver=${(/** @type {DragEvent} */ event) => (event.preventDefault(), setOver(true))}
    onDragLeave=${(/** @type {any} */ event) => event.currentTarget.contains(event.relatedTarget) || setOver(false)}
    onDrop=${async (/** @type {any} */ event) => {
      event.preventDefault();
      setOver(false);
      take(await filesOf(event.dataTransfer));
    }}
  >
    <button type="button" class="drop-button" onClick=${() => input.current.click()}>
      <span class="drop-icon"><${Icon} name=${icon} size=${compact ? 20 : 26} /></span>
      <span class="drop-text"><b>${title}</b>${hint && html`<span class="muted small">${hint}</span>`}</span>
    </button>
    <input
      ref=${input}
      class="visually-hidden"
      type="file"
      tabindex="-1"
      aria-label=${label ?? "Files"}
      accept=${accept}
      multiple=${multiple}
      onChange=${(/** @type {any} */ event) => {
        take([...event.currentTarget.files]);
        event.currentTarget.value = "";
      }}
    />
  </div>`;
}
