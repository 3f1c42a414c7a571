// The concepts that take part in a picture: version and strength of each.

import { ago, parseNumber, shortId } from "../../format.js";
import { Button } from "../../ui/button.js";
import { SelectField, SliderField } from "../../ui/field.js";
import { html, useState } from "../../ui/html.js";
import { useVersions } from "./concepts.js";
import { warningAt } from "./controls.js";

/** @typedef {import("./concepts.js").Concept} Concept */
/** @typedef {import("./settings.js").Use} Use */

/**
 * @param {object} props
 * @param {Concept[]} props.part The concepts that take part.
 * @param {Record<string, Use>} props.uses By handle.
 * @param {(uses: Record<string, Use>) => void} props.onChange
 * @param {string[]} props.order The handles in the order of the request's `concepts`.
 * @param {any} props.problem
 * @param {any[]} props.warnings
 */
export function Uses({ part, uses, onChange, order, problem, warnings }) {
  if (!part.length) return null;
  return html`<ul class="uses" aria-label="Concepts in the picture">
    ${part.map((concept) => {
      const { handle } = concept;
      const pointer = order.includes(handle) ? `/concepts/${order.indexOf(handle)}` : undefined;
      return html`<${OneUse}
        key=${handle}
        concept=${concept}
        use=${uses[handle] ?? { strength: "" }}
        change=${(/** @type {Partial<Use>} */ changes) => onChange({ ...uses, [handle]: { ...(uses[handle] ?? { strength: "" }), ...changes } })}
        remove=${() => {
          const { [handle]: _, ...rest } = uses;
          onChange(rest);
        }}
        pointer=${pointer}
        problem=${problem}
        warning=${pointer && warningAt(warnings, pointer)}
      />`;
    })}
  </ul>`;
}

/**
 * @param {{ concept: Concept, use: Use, change: (changes: Partial<Use>) => void, remove: () => void, pointer?: string, problem: any,
 *   warning?: string }} props
 */
function OneUse({ concept, use, change, remove, pointer, problem, warning }) {
  const { handle } = concept;
  const [open, setOpen] = useState(Boolean(use.delta));
  const versions = useVersions(handle, open);
  const options = [
    { value: "", label: "Current version" },
    ...(versions ?? []).map(({ id, created_at }) => ({ value: id, label: `${shortId(id)}, ${ago(created_at)}${id === concept.current_delta ? " (current)" : ""}` })),
  ];
  if (use.delta && !options.some(({ value }) => value === use.delta)) options.push({ value: use.delta, label: shortId(use.delta) });
  return html`<li class="use">
    <div class="use-head">
      <a href=${`#/concepts/${handle}`} class="use-name">${concept.modifier_token ?? concept.class_noun}</a>
      <span class="muted">${concept.modifier_token ? concept.class_noun : "own word"}</span>
      <span class="use-tools">
        <${Button} kind="quiet" small icon="down" label=${`${open ? "Hide" : "Choose"} the version of ${handle}`} aria-expanded=${open ? "true" : "false"} onClick=${() => setOpen(!open)} />
        ${use.added && html`<${Button} kind="quiet" small icon="close" label=${`Remove ${handle}`} onClick=${remove} />`}
      </span>
    </div>
    <${SliderField}
      label=${`Strength of ${handle}`}
      hideLabel
      pointer=${pointer}
      problem=${problem}
      warning=${warning}
      value=${parseNumber(use.strength) ?? 1}
      onValue=${(/** @type {number} */ value) => change({ strength: String(value) })}
      min=${0}
      max=${2}
      step=${0.05}
    />
    ${open && html`<${SelectField} label="Version" value=${use.delta ?? ""} onValue=${(/** @type {string} */ value) => change({ delta: value || undefined })} options=${options} />`}
  </li>`;
}
