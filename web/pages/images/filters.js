// What is looked for among the images.

import { html, useEffect, useState } from "../../ui/html.js";
import { TextField } from "../../ui/field.js";
import { readSeed } from "../../seed.js";

/**
 * @param {object} props
 * @param {any[]} props.concepts
 * @param {boolean} props.isAll Whether these are all concepts.
 * @param {() => void} props.onChoosing Somebody is about to choose a concept.
 * @param {Record<string, string>} props.query
 * @param {(changes: Record<string, string | null>) => void} props.onChange
 */
export function Filters({ concepts, isAll, onChoosing, query, onChange }) {
  const [handle, setHandle] = useState(query.concept ?? "");
  useEffect(() => setHandle(query.concept ?? ""), [query.concept]);
  const isKnown = (/** @type {string} */ text) => concepts.some((concept) => concept.handle === text);
  const typed = (/** @type {string} */ text) => {
    setHandle(text);
    if (text === "" || isKnown(text)) onChange({ concept: text || null });
  };
  const isBeginning = handle === "" || concepts.some((concept) => concept.handle.startsWith(handle));
  return html`<div class="images-filters" role="search" aria-label="Find pictures">
    <${TextField} label="Prompt" type="search" maxlength=${200} placeholder="Words of the prompt" value=${query.prompt ?? ""} onValue=${(/** @type {string} */ prompt) => onChange({ prompt: prompt || null })} />
    <${TextField}
      label="Concept"
      type="search"
      placeholder="All"
      list="images-concepts"
      value=${handle}
      onFocus=${onChoosing}
      onValue=${typed}
      error=${isAll && !isBeginning ? `No concept is called ${handle}.` : null}
    />
    <datalist id="images-concepts">
      ${concepts.map((concept) => html`<option key=${concept.id} value=${concept.handle}>${concept.modifier_token ?? ""} ${concept.class_noun}</option>`)}
    </datalist>
    <${TextField} label="Seed" inputmode="numeric" value=${query.seed ?? ""} error=${readSeed(query.seed ?? "").error} onValue=${(/** @type {string} */ seed) => onChange({ seed: seed || null })} />
  </div>`;
}
