/** What a training draws of itself while it runs: each prompt after every so many steps, side by side. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api } from "../../api.js";
import { Section } from "../../ui/page.js";
import { Picture } from "../../ui/picture.js";
import { Icon } from "../../ui/icon.js";
import { hasEnded } from "../../ui/job.js";
import { every } from "../../ui/load.js";

/** @param {{training: any}} props A training that was asked for previews. */
export function Steps({ training }) {
  const previews = usePreviews(training);
  const { prompts, every, seed } = training.previews;
  const total = training.recipe.max_train_steps;
  const found = new Map(previews.map((preview) => [`${preview.step} ${preview.index}`, preview.url]));
  const planned = [0];
  for (let step = every; step < total; step += every) planned.push(step);
  planned.push(total);
  // What an interrupted training has drawn stays; what it never came to is not shown.
  const columns = hasEnded(training) ? planned.filter((step) => prompts.some((/** @type {string} */ _, /** @type {number} */ index) => found.has(`${step} ${index}`))) : planned;
  if (!columns.length) return null;
  return html`<${Section}
    class="card drawings"
    title="What it draws"
    lead=${html`The same prompts after every ${every} steps, all with seed <span class="number">${String(seed)}</span>. The first column is the model as it was.`}
  >
    <div class="drawings-box" tabindex="0" role="region" aria-label="What it draws">
      <table class="drawings-table">
        <thead>
          <tr>
            <th scope="col"><span class="visually-hidden">Prompt</span></th>
            ${columns.map((step) => html`<th scope="col" key=${step}>${step === 0 ? "Before" : `Step ${step}`}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${prompts.map(
            (/** @type {string} */ prompt, /** @type {number} */ index) => html`<tr key=${index}>
              <th scope="row">${prompt}</th>
              ${columns.map((step) => {
                const url = found.get(`${step} ${index}`);
                return html`<td key=${step}>
                  ${url
                    ? html`<span class="drawing"><${Picture} src=${url} alt=${step ? `${prompt}, after ${step} steps` : `${prompt}, before the training`} /></span>`
                    : html`<span class="drawing drawing-none"><${Icon} name="images" size=${22} /></span>`}
                </td>`;
              })}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  <//>`;
}

/** The images so far; asks again while the training goes on. @param {any} training */
function usePreviews(training) {
  const [previews, setPreviews] = useState(/** @type {{step: number, index: number, url: string}[]} */ ([]));
  const ended = hasEnded(training);
  useEffect(() => {
    const stop = new AbortController();
    const read = () => api.get(`${training.urls.self}/previews`, { signal: stop.signal }).then(({ body }) => setPreviews(body.data));
    read().catch(() => {});
    const end = ended ? () => {} : every(2000, read);
    return () => (stop.abort(), end());
  }, [ended, training.id]);
  return previews;
}
