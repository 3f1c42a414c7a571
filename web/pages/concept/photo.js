/** One photo: what was noticed about it, its caption, its subject mask. */
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../ui/html.js";
import { api } from "../../api.js";
import { size, time } from "../../format.js";
import { Button } from "../../ui/button.js";
import { Dialog, confirm } from "../../ui/dialog.js";
import { FormProblem, TextField, sentence } from "../../ui/field.js";
import { Notice } from "../../ui/notice.js";
import { Facts } from "../../ui/page.js";
import { toast, toastProblem } from "../../ui/toast.js";
import { MaskBrush } from "./mask.js";

/** @param {{concept: any, photo: any, photos: any[], onShow: (id: string) => void, onClose: () => void, onChange: () => any}} props */
export function PhotoDialog({ concept, photo, photos, onShow, onClose, onChange }) {
  const unsaved = useRef(false);
  const isAsking = useRef(false);
  const at = photos.findIndex((each) => each.id === photo.id);
  /** Leaves the photo, after asking if something would be lost. @param {() => void} leave */
  const unlessUnsaved = async (leave) => {
    if (isAsking.current) return;
    isAsking.current = true;
    const sure = !unsaved.current || (await confirm({ title: "Leave without saving?", text: html`<p>The caption or the mask was changed, and is not saved.</p>`, yes: "Leave", no: "Stay", danger: true }));
    isAsking.current = false;
    if (sure) leave();
  };
  const step = (/** @type {number} */ by) => unlessUnsaved(() => onShow(photos[(at + by + photos.length) % photos.length].id));
  useEffect(() => {
    const pressed = (/** @type {any} */ event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[/** @type {"ArrowLeft"} */ (event.key)];
      if (by && photos.length > 1 && event.target.closest(".photo-dialog") && !event.target.closest("input, textarea, canvas")) step(by);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
  return html`<${Dialog} wide title=${photo.file_name ?? "Photo"} class="photo-dialog" onClose=${() => unlessUnsaved(onClose)}>
    <${PhotoView} key=${photo.id} concept=${concept} photo=${photo} onClose=${onClose} onChange=${onChange} onUnsaved=${(/** @type {boolean} */ is) => (unsaved.current = is)}>
      ${photos.length > 1 &&
      html`<div class="row row-between">
        <${Button} small kind="quiet" icon="back" onClick=${() => step(-1)}>Previous<//>
        <span class="muted small number">${at + 1} of ${photos.length}</span>
        <${Button} small kind="quiet" icon="forward" onClick=${() => step(1)}>Next<//>
      </div>`}
    <//>
  <//>`;
}

/** @param {{concept: any, photo: any, onClose: () => void, onChange: () => any, onUnsaved: (unsaved: boolean) => void, children?: any}} props */
function PhotoView({ concept, photo, onClose, onChange, onUnsaved, children }) {
  const [caption, setCaption] = useState(photo.photo?.caption ?? "");
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [painted, setPainted] = useState(false);
  const path = `v1/concepts/${concept.id}/images/${photo.id}`;
  const saved = photo.photo?.caption ?? "";
  const unsaved = caption.trim() !== saved;
  useEffect(() => setProblem(null), [caption]);
  useLayoutEffect(() => onUnsaved(unsaved || painted), [unsaved, painted]);

  const save = async () => {
    try {
      await api.patch(path, { caption: caption.trim() || null });
      toast(caption.trim() ? "Caption saved" : "Caption removed");
      await onChange();
    } catch (refused) {
      setProblem(refused);
    }
  };
  const remove = async () => {
    const gone = await confirm({
      title: "Remove this photo?",
      text: html`<p>${photo.file_name ?? "The photo"} is deleted. Versions that were trained with it stay as they are.</p>`,
      yes: "Remove",
      danger: true,
      action: async () => (await api.delete(path), true),
    });
    if (!gone) return;
    onClose();
    toast("Photo removed");
    onChange();
  };
  const saveMask = async (/** @type {Blob} */ blob) => {
    const form = new FormData();
    form.append("file", blob, "mask.png");
    try {
      await api.put(`${path}/mask`, form);
      toast("Mask saved. Trainings learn from the marked part only.");
      await onChange();
      return true;
    } catch (refused) {
      toastProblem(refused);
      return false;
    }
  };
  const removeMask = async () => {
    try {
      await api.delete(`${path}/mask`);
      toast("Mask removed");
      await onChange();
    } catch (refused) {
      toastProblem(refused);
    }
  };
  return html`<div class="photo-view">
      <div class="stack-small">
        <${MaskBrush} photo=${photo} onSave=${saveMask} onRemove=${removeMask} onUnsaved=${setPainted} />
        ${children}
      </div>
      <div class="stack">
        ${(photo.photo?.findings ?? []).map((/** @type {any} */ finding) => html`<${Notice} key=${finding.code} kind=${finding.verdict}>${sentence(finding.detail)}<//>`)}
        <form class="stack-small" onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), save())}>
          <${FormProblem} problem=${problem} shown=${["/caption"]} />
          <${TextField}
            label="Caption"
            optional
            multiline
            rows="3"
            maxlength="2000"
            placeholder=${`a ${concept.class_noun} asleep on a red sofa`}
            hint="Say what else is in the photo, so that it is not learned as a part of the concept. {} stands for its name."
            pointer="/caption"
            problem=${problem}
            value=${caption}
            onValue=${setCaption}
          />
          ${photo.photo?.training_caption && !unsaved && html`<p class="small">Trained as <q>${photo.photo.training_caption}</q></p>`}
          <div><${Button} small type="submit" kind=${unsaved ? "primary" : "plain"} disabled=${!unsaved} onClick=${(/** @type {Event} */ event) => (event.preventDefault(), save())}>Save the caption<//></div>
        </form>
        <${Facts} rows=${[["Size", `${photo.width} × ${photo.height}`], ["File", size(photo.size_bytes)], ["Added", time(photo.created_at)]]} />
        <div><${Button} small kind="danger" icon="trash" onClick=${() => void remove()}>Remove the photo<//></div>
      </div>
    </div>`;
}
