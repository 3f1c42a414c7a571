// Errors below a field that is not one of the common ones.

import { sentence } from "../../ui/field.js";
import { html } from "../../ui/html.js";
import { Icon } from "../../ui/icon.js";

/** @param {{ errors: string[] }} props */
export function Errors({ errors }) {
  if (!errors.length) return null;
  return html`<div class="field-error" role="alert">
    ${[...new Set(errors)].map((error) => html`<p key=${error}><${Icon} name="fail" size=${16} /><span>${sentence(error)}</span></p>`)}
  </div>`;
}
