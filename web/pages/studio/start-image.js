// The picture that samples start from, and how far they go away from it.

import { api } from "../../api.js";
import { parseNumber } from "../../format.js";
import { Button } from "../../ui/button.js";
import { SliderField, errorsAt } from "../../ui/field.js";
import { classes, html, useRef, useState } from "../../ui/html.js";
import { Icon } from "../../ui/icon.js";
import { Picture } from "../../ui/picture.js";
import { Errors } from "./errors.js";

/** @typedef {import("./settings.js").Settings} Settings */

/**
 * Uploads a picture to start from, and answers its id.
 *
 * @param {Blob} file
 * @returns {Promise<string>}
 */
export async function uploadStart(file) {
  const form = new FormData();
  form.append("file", file);
  const { body } = await api.upload("v1/images", form);
  return body.id;
}

/**
 * @param {object} props
 * @param {Settings} props.settings
 * @param {(changes: Partial<Settings>) => void} props.change
 * @param {(name: keyof Settings, pointer?: string) => any} props.field
 * @param {number | undefined} props.standard The strength unless another one is given.
 */
export function StartImage({ settings, change, field, standard = 0.8 }) {
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [over, setOver] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const { problem: refused } = field("init_image");
  const errors = [...(problem ? [problem.detail ?? String(problem)] : []), ...errorsAt(refused, "/init_image").map(({ detail }) => detail)];

  const take = async (/** @type {File | undefined | null} */ file) => {
    if (!file) return;
    setProblem(null);
    try {
      change({ init_image: await uploadStart(file) });
    } catch (cause) {
      setProblem(cause);
    }
  };
  const onDrop = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    event.stopPropagation();
    setOver(false);
    return take(event.dataTransfer?.files[0]);
  };

  return html`<div class=${classes("start field", errors.length && "field-wrong")}>
    <div class="field-top"><span class="label" id="start-label">Start image <span class="muted">optional</span></span></div>
    ${settings.init_image
      ? html`<div class="start-chosen">
          <${Picture} src=${`v1/images/${settings.init_image}/content`} width=${128} alt="Start image" />
          <div class="start-side">
            <${SliderField}
              label="Change"
              ...${field("noise_strength")}
              value=${parseNumber(settings.noise_strength) ?? standard}
              onValue=${(/** @type {number} */ value) => change({ noise_strength: String(value) })}
              min=${0.05}
              max=${1}
              step=${0.05}
              hint="Little keeps the start image, 1 keeps nothing of it."
            />
            <${Button} small icon="close" onClick=${() => change({ init_image: null, noise_strength: "" })}>Remove<//>
          </div>
        </div>`
      : html`<button
          type="button"
          class=${classes("start-drop", over && "is-over")}
          onClick=${() => input.current?.click()}
          onDragOver=${(/** @type {DragEvent} */ event) => (event.preventDefault(), setOver(true))}
          onDragLeave=${() => setOver(false)}
          onDrop=${onDrop}
        >
          <${Icon} name="images" size=${18} />
          <span>Drop a picture here, or choose one</span>
        </button>`}
    <input
      ref=${input}
      type="file"
      accept="image/png,image/jpeg,image/webp"
      hidden
      aria-labelledby="start-label"
      onChange=${(/** @type {any} */ event) => {
        const file = event.currentTarget.files[0];
        event.currentTarget.value = "";
        return take(file);
      }}
    />
    <${Errors} errors=${errors} />
  </div>`;
}
