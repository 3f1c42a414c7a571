// What was drawn before: a strip of samples, newest first.

import { api } from "../../api.js";
import { ago, plural } from "../../format.js";
import { Button } from "../../ui/button.js";
import { classes, html, useCallback, useEffect, useRef, useState } from "../../ui/html.js";
import { every } from "../../ui/load.js";
import { Picture } from "../../ui/picture.js";
import { toastProblem } from "../../ui/toast.js";

/** @typedef {import("../../api-types").components["schemas"]["SampleBody"]} Sample */

const PAGE = 24;
/** The largest page of the API, and how many are read to find enough to show. */
const MOST = 100;
const MOST_REQUESTS = 20;
/** How often samples that have not ended are looked at, in milliseconds. */
const LOOK_MS = 3000;

/** Whether somebody asked for the pictures. Those of evaluations are of low priority, and are looked at there. */
const isDrawnHere = (/** @type {Sample} */ { priority }) => priority !== "low";

const hasEnded = (/** @type {Sample} */ sample) => ["succeeded", "failed", "canceled"].includes(sample.status);

/**
 * The samples of the project as far as they were asked for, newest first.
 *
 * @returns {{ samples: Sample[] | null, more: boolean, loadMore: () => Promise<void>, put: (sample: Sample) => void, drop: (id: string) => void }}
 */
export function useHistory() {
  const [samples, setSamples] = useState(/** @type {Sample[] | null} */ (null));
  const [cursor, setCursor] = useState(/** @type {string | null} */ (null));

  const put = useCallback((/** @type {Sample} */ sample) => {
    setSamples((before) => {
      if (!before) return before;
      const at = before.findIndex(({ id }) => id === sample.id);
      return at < 0 ? (sample.id > (before[0]?.id ?? "") ? [sample, ...before] : before) : before.with(at, sample);
    });
  }, []);
  const drop = useCallback((/** @type {string} */ id) => setSamples((before) => before && before.filter((one) => one.id !== id)), []);
  const load = async (/** @type {string | null} */ after) => {
    try {
      const found = /** @type {Sample[]} */ ([]);
      let next = after;
      for (let requests = 0; requests < MOST_REQUESTS && (requests === 0 || (next && found.length < PAGE / 2)); requests++) {
        const { body } = await api.get(`v1/samples?limit=${requests ? MOST : PAGE}${next ? `&after=${next}` : ""}`);
        found.push(...body.data.filter(isDrawnHere));
        next = body.next_cursor;
      }
      setSamples((before) => [...(after && before ? before : []), ...found]);
      setCursor(next);
    } catch (problem) {
      toastProblem(problem);
      setSamples((before) => before ?? []);
    }
  };
  useEffect(() => void load(null), []);

  // What has not ended is looked at again, all at once.
  const pending = samples?.some((sample) => !hasEnded(sample)) ?? false;
  useEffect(() => {
    if (!pending) return;
    return every(LOOK_MS, async () => {
      const { body } = await api.get(`v1/samples?limit=${PAGE}`);
      body.data.filter(isDrawnHere).forEach(put);
    });
  }, [pending]);

  return { samples, more: cursor !== null, loadMore: () => load(cursor), put, drop };
}

/**
 * @param {object} props
 * @param {ReturnType<typeof useHistory>} props.history
 * @param {string | null} props.chosen
 * @param {(id: string) => void} props.onChoose
 */
export function History({ history, chosen, onChoose }) {
  const [wanted, setWanted] = useState("");
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  const { samples, more, loadMore } = history;
  if (!samples?.length) return null;
  const word = wanted.trim().toLowerCase();
  const left = samples.filter(({ id, status, images }) => status !== "succeeded" || images.length || id === chosen);
  const shown = word ? left.filter(({ prompt, seed }) => prompt.toLowerCase().includes(word) || String(seed) === word) : left;

  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const buttons = [.../** @type {HTMLElement} */ (list.current).querySelectorAll("button")];
    const next = buttons[buttons.indexOf(/** @type {any} */ (document.activeElement)) + by];
    if (!next) return;
    event.preventDefault();
    next.focus();
  };

  return html`<section class="history" aria-label="History">
    <div class="history-head">
      <h2>History</h2>
      <input class="input" type="search" placeholder="Prompt or seed" aria-label="Find in the history" value=${wanted} onInput=${(/** @type {any} */ event) => setWanted(event.currentTarget.value)} />
    </div>
    <ol class="history-list" ref=${list} onKeyDown=${onKeyDown}>
      ${shown.map((sample) => html`<li key=${sample.id}><${Entry} sample=${sample} isChosen=${sample.id === chosen} onChoose=${onChoose} /></li>`)}
      ${!shown.length && html`<li class="muted">Nothing found among the newest ${samples.length}.</li>`}
      ${more && html`<li class="history-more"><${Button} small onClick=${loadMore}>Older<//></li>`}
    </ol>
  </section>`;
}

/** @param {{ sample: Sample, isChosen: boolean, onChoose: (id: string) => void }} props */
function Entry({ sample, isChosen, onChoose }) {
  const image = sample.images[0];
  const says = `${sample.prompt}, ${plural(sample.n, "picture")}, ${hasEnded(sample) ? sample.status : "under way"}, ${ago(sample.created_at)}`;
  return html`<button
    type="button"
    class=${classes("history-entry", isChosen && "is-chosen", `is-${sample.status}`)}
    aria-current=${isChosen ? "true" : undefined}
    aria-label=${says}
    title=${says}
    onClick=${() => onChoose(sample.id)}
  >
    ${image ? html`<${Picture} src=${image.url} width=${128} alt="" />` : html`<span class="history-state">${state(sample)}</span>`}
    ${sample.n > 1 && html`<span class="history-count" aria-hidden="true">${sample.n}</span>`}
  </button>`;
}

/** @param {Sample} sample */
function state({ status, progress }) {
  if (status === "running" && progress?.total_steps) return `${Math.floor((progress.step / progress.total_steps) * 100)} %`;
  return { queued: "waiting", running: "starting", canceling: "stopping", succeeded: "deleted", failed: "failed", canceled: "canceled" }[status];
}
