// The fields of the studio below the prompt.

import { Button } from "../../ui/button.js";
import { SelectField, TextField } from "../../ui/field.js";
import { Folded } from "../../ui/folded.js";
import { html } from "../../ui/html.js";
import { randomSeed } from "../../seed.js";
import { StartImage } from "./start-image.js";

/** @typedef {import("./settings.js").Settings} Settings */
/** @typedef {import("./concepts.js").Capabilities} Capabilities */

/** The names of the schedulers as people know them. */
const SCHEDULERS = {
  ddim: "DDIM",
  ddpm: "DDPM",
  pndm: "PNDM",
  euler: "Euler",
  euler_a: "Euler ancestral",
  dpmpp_2m: "DPM++ 2M",
  dpmpp_2m_karras: "DPM++ 2M Karras",
  unipc: "UniPC",
  lcm: "LCM",
};

/** @param {string} name */
export const schedulerName = (name) => SCHEDULERS[/** @type {keyof typeof SCHEDULERS} */ (name)] ?? name;

/**
 * @param {object} props
 * @param {Settings} props.settings
 * @param {(changes: Partial<Settings>) => void} props.change
 * @param {Capabilities | null} props.capabilities
 * @param {any} props.problem What is wrong with the fields, as the page or the service has found.
 * @param {any[]} props.warnings
 * @param {number | undefined} props.negativeTokens Tokens of the negative prompt, with start and end.
 */
export function Controls({ settings, change, capabilities, problem, warnings, negativeTokens }) {
  const defaults = capabilities?.sampling_defaults;
  const model = capabilities?.base_model;
  const scheduler = settings.scheduler || defaults?.scheduler;
  const usesEta = capabilities?.schedulers.find(({ name }) => name === scheduler)?.uses_eta ?? false;
  const field = (/** @type {keyof Settings} */ name, pointer = `/${name}`) => ({
    pointer,
    problem,
    warning: warningAt(warnings, pointer),
    value: settings[name],
    onValue: (/** @type {string} */ value) => change({ [name]: value }),
  });

  return html`<div class="controls">
    <div class="controls-row">
      <${TextField} label="Images" inputmode="numeric" ...${field("n")} placeholder="1" />
      <${TextField} label="Steps" inputmode="numeric" ...${field("num_inference_steps")} placeholder=${text(defaults?.num_inference_steps)} />
      <${TextField} label="Guidance" inputmode="decimal" ...${field("guidance_scale")} placeholder=${text(defaults?.guidance_scale)} />
    </div>
    <${Seed} settings=${settings} change=${change} field=${field("seed")} />
    <${Size} settings=${settings} change=${change} model=${model} field=${field} />
    <${SelectField}
      label="Scheduler"
      ...${field("scheduler")}
      options=${[
        { value: "", label: defaults ? `Default (${schedulerName(defaults.scheduler)})` : "Default" },
        ...(capabilities?.schedulers ?? []).map(({ name }) => ({ value: name, label: schedulerName(name) })),
      ]}
    />
    <${TextField} label="Negative prompt" optional multiline rows="2" ...${field("negative_prompt")} aside=${settings.negative_prompt && negativeTokens ? `${negativeTokens} of ${model?.max_prompt_tokens ?? "…"} tokens` : undefined} hint="What the pictures should not show." />
    <${StartImage} settings=${settings} change=${change} field=${field} standard=${defaults?.noise_strength} />
    <${Folded} class="controls-more" title="More settings" open=${isAdvanced(settings)}>
      <div class="controls-row">
        <${TextField} label="Guidance from" inputmode="decimal" ...${field("guidance_start", "/guidance_interval")} placeholder="0" />
        <${TextField} label="Guidance until" inputmode="decimal" ...${field("guidance_end", "/guidance_interval")} placeholder="1" />
      </div>
      <p class="field-hint">The part of the way from noise (0) to image (1) on which guidance is applied.</p>
      <div class="controls-row">
        <${TextField} label="Strength in negative prompt" inputmode="decimal" ...${field("unconditional_strength")} placeholder="1" />
        ${usesEta && html`<${TextField} label="Eta" inputmode="decimal" ...${field("eta")} placeholder=${text(defaults?.eta)} />`}
        <${TextField} label="First image" inputmode="numeric" ...${field("first_index")} placeholder="0" />
      </div>
      <${SelectField}
        label="Bytes"
        ...${field("determinism")}
        options=${[
          { value: "", label: "The same bytes every time" },
          { value: "fast", label: "Fast: last bits may differ on a GPU" },
        ]}
      />
    <//>
  </div>`;
}

/** @param {{ settings: Settings, change: (changes: Partial<Settings>) => void, field: any }} props */
function Seed({ settings, change, field }) {
  return html`<div class="seed">
    <${TextField}
      label="Seed"
      inputmode="numeric"
      ...${field}
      placeholder="Random"
      hint=${settings.keepSeed ? "Kept for the next pictures." : settings.seed ? "For the next pictures only." : "A new one each time."}
    />
    <${Button} kind="quiet" icon="dice" label="A new random seed" onClick=${() => change({ seed: randomSeed(), keepSeed: true })} />
    <${Button}
      kind="quiet"
      icon="lock"
      label=${settings.keepSeed ? "Draw with a new seed each time" : "Keep this seed"}
      aria-pressed=${settings.keepSeed ? "true" : "false"}
      onClick=${() => change(settings.keepSeed ? { keepSeed: false, seed: "" } : { keepSeed: true, seed: settings.seed || randomSeed() })}
    />
  </div>`;
}

/** @param {{ settings: Settings, change: (changes: Partial<Settings>) => void, model: Capabilities["base_model"] | undefined, field: any }} props */
function Size({ settings, change, model, field }) {
  const native = model?.native_size ?? 512;
  const shapes = [
    { name: "Square", width: native, height: native },
    { name: "Wide", width: multiple(native * 1.5, model), height: native },
    { name: "Tall", width: native, height: multiple(native * 1.5, model) },
  ];
  const [width, height] = [settings.width || text(native), settings.height || text(native)];
  return html`<fieldset class="size">
    <legend>Size</legend>
    <div class="size-row">
      <${TextField} label="Width" hideLabel inputmode="numeric" ...${field("width")} placeholder=${text(native)} />
      <span aria-hidden="true">×</span>
      <${TextField} label="Height" hideLabel inputmode="numeric" ...${field("height")} placeholder=${text(native)} />
      <div class="segments">
        ${shapes.map(
          (shape) => html`<button
            key=${shape.name}
            type="button"
            title=${`${shape.width} × ${shape.height}`}
            aria-pressed=${width === text(shape.width) && height === text(shape.height) ? "true" : "false"}
            onClick=${() => change({ width: text(shape.width), height: text(shape.height) })}
          >
            ${shape.name}
          </button>`,
        )}
      </div>
    </div>
  </fieldset>`;
}

/** The multiple of the model's step that is nearest to a side, and within the largest. */
function multiple(/** @type {number} */ side, /** @type {Capabilities["base_model"] | undefined} */ model) {
  const step = model?.size_multiple ?? 8;
  return Math.min(Math.round(side / step) * step, model?.max_size ?? side);
}

const text = (/** @type {unknown} */ value) => (value === undefined || value === null ? "" : String(value));

/** @param {Settings} settings */
const isAdvanced = (settings) =>
  [settings.guidance_start, settings.guidance_end, settings.unconditional_strength, settings.eta, settings.first_index, settings.determinism].some(Boolean);

/**
 * The warnings about a field, as one text.
 *
 * @param {any[]} warnings
 * @param {string} pointer
 */
export function warningAt(warnings, pointer) {
  const about = warnings.filter((warning) => warning.pointer === pointer || warning.pointer.startsWith(`${pointer}/`));
  return about.length ? about.map(({ detail }) => detail[0].toUpperCase() + detail.slice(1)).join(" ") : undefined;
}
