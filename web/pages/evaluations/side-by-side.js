/** The images of all subjects, prompt by prompt: the same column of one prompt has the same noise. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api, withParameter } from "../../api.js";
import { plural } from "../../format.js";
import { Button } from "../../ui/button.js";
import { Skeleton } from "../../ui/empty.js";
import { CompareDialog } from "../../ui/compare.js";
import { ProblemNotice } from "../../ui/notice.js";
import { Picture } from "../../ui/picture.js";
import { hasEnded } from "../../ui/job.js";

/** Images of one prompt that are shown of each subject. */
const SHOWN = 4;
/** Prompts that are shown at first. */
const PROMPTS = 8;

/** @param {{job: any}} props */
export function SideBySide({ job }) {
  const [samples, setSamples] = useState(/** @type {any[] | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [prompts, setPrompts] = useState(PROMPTS);
  const [chosen, setChosen] = useState(/** @type {any[]} */ ([]));
  const [comparing, setComparing] = useState(false);
  const ended = hasEnded(job);
  const path = `v1/evaluations/${job.id}/samples`;
  useEffect(() => {
    const stop = new AbortController();
    const read = () => api.all(withParameter(path, "limit", "100"), { signal: stop.signal, limit: 400 }).then(setSamples, (cause) => !stop.signal.aborted && setProblem(cause));
    read();
    const timer = ended ? 0 : setInterval(() => document.visibilityState === "visible" && read(), 5000);
    return () => (stop.abort(), clearInterval(timer));
  }, [path, ended]);
  if (problem) return html`<${ProblemNotice} problem=${problem} />`;
  if (!samples) return html`<${Skeleton} rows=${4} height="8rem" />`;

  const names = job.subjects.map((/** @type {any} */ subject) => subject.name);
  const rows = job.prompts.map((/** @type {any} */ prompt) => ({
    prompt,
    images: names.map((/** @type {string} */ name) => samples.filter((sample) => sample.subject === name && (sample.prompt === prompt.text || sample.prompt === prompt.plain)).flatMap((sample) => sample.images)),
  }));
  const choose = (/** @type {any} */ image, /** @type {string} */ label) => {
    const next = chosen.some((each) => each.id === image.id) ? chosen.filter((each) => each.id !== image.id) : [...chosen.slice(-1), { ...image, label }];
    setChosen(next);
    if (next.length === 2) setComparing(true);
  };
  return html`<p class="muted small">Choose two images to compare them. ${chosen.length === 1 ? "One is chosen." : ""}</p>
    ${rows.slice(0, prompts).map(
      (/** @type {any} */ { prompt, images }) => html`<section key=${prompt.text} class="side-by-side">
        <h2>${prompt.text}</h2>
        <div class="side-rows">
          ${names.map(
            (/** @type {string} */ name, /** @type {number} */ index) => html`<div key=${name} class="side-row">
              <p class="truncate small" title=${name}>${name}</p>
              <div class="side-images">
                ${images[index].slice(0, SHOWN).map(
                  (/** @type {any} */ image, /** @type {number} */ at) => html`<button key=${image.id} type="button" class="side-image" aria-pressed=${chosen.some((each) => each.id === image.id) ? "true" : "false"} aria-label=${`Image ${at + 1} of ${name} on “${prompt.text}”`} onClick=${() => choose(image, name)}>
                    <${Picture} src=${image.url} alt="" width=${256} />
                  </button>`,
                )}
                ${images[index].length === 0 && html`<span class="muted small">${ended ? "None was drawn." : "Not drawn yet."}</span>`}
              </div>
            </div>`,
          )}
        </div>
      </section>`,
    )}
    ${rows.length > prompts && html`<div class="more"><${Button} onClick=${() => setPrompts(prompts + PROMPTS)}>${plural(rows.length - prompts, "further prompt")}<//></div>`}
    ${comparing && chosen.length === 2 && html`<${CompareDialog} first=${chosen[0]} second=${chosen[1]} onClose=${() => (setComparing(false), setChosen([]))} />`}`;
}
