// What is looked for among the images.

import { html } from "../../ui/html.js";
import { SelectField, TextField } from "../../ui/field.js";
import { readSeed } from "../../seed.js";

/**
 * @param {object} props
 * @param {any[]} props.concepts
 * @param {Record<string, string>} props.query
 * @param {(changes: Record<string, string | null>) => void} props.onChange
 */
export function Filters({ concepts, query, onChange }) {
  const options = concepts.map(({ handle, class_noun }) => ({ value: handle, label: `${handle} (${class_noun})` }));
  return html`<div class="images-filters" role="search" aria-label="Find pictures">
    <${TextField} label="Prompt" type="search" placeholder="Words of the prompt" value=${query.prompt ?? ""} onValue=${(/** @type {string} */ prompt) => onChange({ prompt: prompt || null })} />
    <${SelectField} label="Concept" value=${query.concept ?? ""} onValue=${(/** @type {string} */ concept) => onChange({ concept: concept || null })} options=${[{ value: "", label: "All" }, ...options]} />
    <${TextField} label="Seed" inputmode="numeric" value=${query.seed ?? ""} error=${readSeed(query.seed ?? "").error} onValue=${(/** @type {string} */ seed) => onChange({ seed: seed || null })} />
  </div>`;
}
