// The grid: each prompt drawn in each way, all from the same seed.

import { api } from "../../api.js";
import { link } from "../../router.js";
import { readSeed } from "../../seed.js";
import { Button } from "../../ui/button.js";
import { FormProblem, TextField } from "../../ui/field.js";
import { html, useEffect, useState } from "../../ui/html.js";
import { hasEnded } from "../../ui/job.js";
import { every } from "../../ui/load.js";
import { Section } from "../../ui/page.js";
import { Picture } from "../../ui/picture.js";
import { COLUMN_KINDS, columnsOf, defaultPrompts, promptsOf, requestOf } from "./plan.js";

/** @typedef {import("../studio/concepts.js").Concept} Concept */

/** How often samples that have not ended are looked at, in milliseconds. */
const LOOK_MS = 2000;

/**
 * @param {object} props
 * @param {Concept[]} props.part
 * @param {any} props.state The page's state: `columns`, `prompts`, `seed`, and `cells`, the samples by prompt and column.
 * @param {(changes: any) => void} props.change
 * @param {any} props.capabilities
 */
export function Grid({ part, state, change, capabilities }) {
  const joint = useJoint(part);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const prompts = promptsOf(state.prompts || defaultPrompts(part.length));
  const columns = columnsOf(state.columns, part, joint);
  const samples = useSamples(Object.values(state.cells));
  const seed = readSeed(state.seed);

  const draw = async () => {
    setProblem(null);
    /** @type {Record<string, string>} */
    const cells = {};
    try {
      for (const [row, template] of prompts.entries()) {
        for (const column of columns) {
          const { body } = await api.post("v1/samples", requestOf(template, column, { ...state, part }));
          cells[`${row}:${column.id}`] = body.id;
          change({ cells: { ...cells } });
        }
      }
    } catch (cause) {
      setProblem(cause);
    }
  };
  const toggle = (/** @type {string} */ id) =>
    change({ columns: state.columns.includes(id) ? state.columns.filter((/** @type {string} */ one) => one !== id) : [...state.columns, id] });

  return html`<${Section} title="Side by side" lead="The same prompts from the same seed, in each way." class="ways">
    <div class="ways-choice">
      <div class="segments ways-kinds" role="group" aria-label="What is drawn">
        ${COLUMN_KINDS.filter(({ id }) => id !== "joint" || joint).map(
          ({ id, label }) => html`<button key=${id} type="button" aria-pressed=${state.columns.includes(id) ? "true" : "false"} onClick=${() => toggle(id)}>${label}</button>`,
        )}
      </div>
      <div class="ways-fields">
        <${TextField}
          label="Prompts"
          multiline
          rows="3"
          value=${state.prompts || defaultPrompts(part.length)}
          onValue=${(/** @type {string} */ text) => change({ prompts: text })}
          hint="One to a line, eight at most. {} stands for each concept in turn."
        />
        <${TextField} label="Seed" inputmode="numeric" value=${state.seed} onValue=${(/** @type {string} */ text) => change({ seed: text })} error=${seed.error} />
      </div>
      <${FormProblem} problem=${problem} />
      <${Button} kind="primary" icon="studio" disabled=${!columns.length || !prompts.length || Boolean(seed.error)} onClick=${draw}>
        Draw ${prompts.length * columns.length} pictures
      <//>
    </div>
    ${Object.keys(state.cells).length > 0 &&
    html`<div class="ways-scroll" tabindex="0" role="region" aria-label="Pictures by prompt and way">
      <table class="ways-table">
        <thead>
          <tr>
            <th scope="col"><span class="visually-hidden">Prompt</span></th>
            ${columns.map((column) => html`<th key=${column.id} scope="col">${column.label}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${prompts.map(
            (template, row) => html`<tr key=${row}>
              <th scope="row">${template}</th>
              ${columns.map((column) => html`<td key=${column.id}><${Cell} id=${state.cells[`${row}:${column.id}`]} samples=${samples} small=${(capabilities?.base_model.native_size ?? 512) <= 128} /></td>`)}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
  <//>`;
}

/** @param {{ id: string | undefined, samples: Map<string, any>, small: boolean }} props */
function Cell({ id, samples, small }) {
  const sample = id ? samples.get(id) : null;
  if (!id) return html`<span class="ways-empty" aria-label="Not drawn"></span>`;
  const image = sample?.images?.[0];
  if (image) {
    return html`<a href=${link("/studio", { sample: id })} title=${sample.prompt}><${Picture} src=${image.url} width=${256} alt=${sample.prompt} pixelated=${small} /></a>`;
  }
  const says = { queued: "waiting", running: "drawing", canceling: "stopping", succeeded: "deleted", failed: "failed", canceled: "canceled", gone: "deleted" };
  return html`<span class="ways-empty">${sample ? (says[/** @type {keyof typeof says} */ (sample.status)] ?? sample.status) : "…"}</span>`;
}

/**
 * The samples with these ids, looked at until all have ended.
 *
 * @param {string[]} ids
 * @returns {Map<string, any>}
 */
function useSamples(ids) {
  const [samples, setSamples] = useState(() => new Map());
  const open = ids.filter((id) => !hasEnded(samples.get(id)) && samples.get(id)?.status !== "gone").join();
  useEffect(() => {
    if (!open) return;
    let gone = false;
    const look = async () => {
      const answers = await Promise.all(
        open.split(",").map((id) => api.get(`v1/samples/${id}`).then(({ body }) => body, (problem) => (problem.status === 404 ? { id, status: "gone" } : null))),
      );
      if (!gone) setSamples((before) => new Map([...before, ...answers.filter(Boolean).map((/** @type {any} */ sample) => /** @type {[string, any]} */ ([sample.id, sample]))]));
    };
    look();
    const end = every(LOOK_MS, look);
    return () => {
      gone = true;
      end();
    };
  }, [open]);
  return samples;
}

/**
 * The newest delta that teaches exactly these concepts together, and is not a merge.
 *
 * @param {Concept[]} part
 * @returns {string | null}
 */
function useJoint(part) {
  const [joint, setJoint] = useState(/** @type {string | null} */ (null));
  const ids = part.map(({ id }) => id).sort().join();
  useEffect(() => {
    let gone = false;
    setJoint(null);
    api.get(`v1/deltas?limit=100&concept=${part[0].handle}`).then(
      ({ body }) => {
        const found = body.data.find(
          (/** @type {any} */ delta) =>
            delta.made_by.startsWith("/v1/trainings/") && delta.concepts.map((/** @type {any} */ one) => one.id).sort().join() === ids,
        );
        if (!gone) setJoint(found?.id ?? null);
      },
      () => {},
    );
    return () => {
      gone = true;
    };
  }, [ids]);
  return joint;
}
