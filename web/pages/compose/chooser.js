// Chooses concepts: those with a cover picture and a name, found by typing.

import { classes, html, useState } from "../../ui/html.js";
import { Icon } from "../../ui/icon.js";

/** @typedef {import("../studio/concepts.js").Concept} Concept */

/** How many concepts are offered at once; the others are found by typing. */
const OFFERED = 24;

/**
 * @param {{ concepts: Concept[], isAll: boolean, onLook: () => void, chosen: string[], onChoose: (handle: string) => void }} props `isAll` is
 *   false while only the newest concepts are known, and `onLook` asks for all.
 */
export function Chooser({ concepts, isAll, onLook, chosen, onChoose }) {
  const [word, setWord] = useState("");
  const wanted = word.trim().toLowerCase();
  const found = concepts.filter(({ handle, class_noun }) => !wanted || handle.includes(wanted) || class_noun.includes(wanted));
  const first = concepts.filter(({ handle }) => chosen.includes(handle));
  const offered = [...first, ...found.filter((concept) => !first.includes(concept))].slice(0, OFFERED);
  return html`<section class="chooser" aria-label="Concepts">
    ${(concepts.length > 8 || !isAll) &&
    html`<input class="input" type="search" placeholder="Find a concept" aria-label="Find a concept" onFocus=${onLook} value=${word} onInput=${(/** @type {any} */ event) => setWord(event.currentTarget.value)} />`}
    <div class="chooser-list" role="group" aria-label="Concepts to bring together">
      ${offered.map(({ handle, modifier_token, class_noun }) => {
        const isIn = chosen.includes(handle);
        return html`<button key=${handle} type="button" class=${classes("chooser-one", isIn && "is-in")} aria-pressed=${isIn ? "true" : "false"} onClick=${() => onChoose(handle)}>
          <${Icon} name=${isIn ? "check" : "plus"} size=${16} />
          <span><strong>${modifier_token ?? class_noun}</strong> <span class="muted">${modifier_token ? class_noun : handle}</span></span>
        </button>`;
      })}
    </div>
    ${found.length + first.length > OFFERED && html`<p class="muted">${found.length} concepts; type to find one.</p>`}
  </section>`;
}
