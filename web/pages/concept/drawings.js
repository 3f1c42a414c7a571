/**
 * The same prompts on the same seed, drawn by several versions side by side.
 *
 * The images are samples like any other. Each has an external id made of its version, prompt and seed, by which it is found
 * again: the table is there after a reload, and nothing is drawn twice.
 */
import { html, classes, useCallback, useEffect, useMemo, useRef, useState } from "../../ui/html.js";
import { Problem, api } from "../../api.js";
import { link } from "../../router.js";
import { preferences, useStored } from "../../store.js";
import { plural } from "../../format.js";
import { Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Picture } from "../../ui/picture.js";
import { Icon } from "../../ui/icon.js";
import { Bar, hasEnded, phaseText, share, useJob } from "../../ui/job.js";
import { NumberField, TextField, sentence } from "../../ui/field.js";
import { ProblemNotice } from "../../ui/notice.js";
import { useGet } from "../../ui/load.js";

/** `{}` is the concept's name. */
export const PROMPTS = ["photo of a {}", "a {} on the beach", "a {} in the snow"];
const SEED = 7;
const MAX_PROMPTS = 6;

/**
 * @typedef {{delta: string | null, name: any, note?: any}} Column A column without a delta is the base model, asked for the
 *   concept's kind.
 * @typedef {{id: string, delta: string | null, prompt: string, seed: number}} Wanted
 */

/** @param {{concept: any, columns: Column[], title: string, lead?: any, aside?: any}} props */
export function Drawings({ concept, columns, title, lead, aside }) {
  const [stored, setPrompts] = useStored(`prompts ${concept.id}`, PROMPTS, preferences);
  const prompts = useMemo(() => stored.filter((/** @type {string} */ prompt) => prompt.trim()), [stored]);
  const [seed, setSeed] = useStored(`prompt-seed ${concept.id}`, SEED, preferences);
  const [editing, setEditing] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const name = concept.modifier_token ? `${concept.modifier_token} ${concept.class_noun}` : concept.class_noun;
  const wanted = (/** @type {string} */ template, /** @type {string | null} */ delta) => {
    const prompt = template.replaceAll("{}", delta ? name : concept.class_noun);
    return { id: idOf(delta, prompt, seed), delta, seed, prompt };
  };
  const all = useMemo(
    () => prompts.flatMap((/** @type {string} */ prompt) => columns.map(({ delta }) => wanted(prompt, delta))),
    [JSON.stringify([prompts, seed, columns.map(({ delta }) => delta)])],
  );
  const { found, loading, reload, put } = useSamples(all);
  const photos = useGet(`v1/concepts/${concept.id}/images?limit=${MAX_PROMPTS}&order=asc`).body?.data ?? [];
  const missing = all.filter(({ id }) => !found.get(id));

  const draw = async () => {
    setProblem(null);
    try {
      for (const each of missing) put(each.id, await start(each));
    } catch (refused) {
      setProblem(refused);
    }
  };
  const again = async (/** @type {any} */ sample) => {
    // The label is taken from what failed, so that the next one can have it.
    await api.patch(sample.urls.self, { external_id: null }).catch(setProblem);
    await reload();
  };

  return html`<${Section}
    class="card drawings"
    title=${title}
    lead=${lead ?? "The same prompts and the same seed in each column, so that only the version differs."}
    aside=${html`${aside}<${Button} small icon="edit" onClick=${() => setEditing(!editing)}>Prompts<//>
      ${!loading && missing.length > 0 && html`<${Button} small kind="primary" icon="play" onClick=${draw}>${missing.length === all.length ? `Draw ${plural(all.length, "image")}` : `Draw ${missing.length} more`}<//>`}`}
  >
    <${ProblemNotice} problem=${problem} />
    ${editing &&
    html`<${Prompts} prompts=${prompts} seed=${seed} name=${name} onDone=${(/** @type {string[]} */ next, /** @type {number} */ number) => (setPrompts(next), setSeed(number), setEditing(false))} />`}
    <div class="drawings-box" tabindex="0" role="region" aria-label=${title}>
      <table class=${classes("drawings-table", missing.length === all.length && "drawings-empty")}>
        <thead>
          <tr>
            <th scope="col"><span class="visually-hidden">Prompt</span></th>
            ${photos.length > 0 && html`<th scope="col" class="drawings-photo">Photos</th>`}
            ${columns.map((column) => html`<th scope="col" key=${column.delta ?? "base"}>${column.name}${column.note && html`<span class="muted small">${column.note}</span>`}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${prompts.map(
            (/** @type {string} */ prompt, /** @type {number} */ row) => html`<tr key=${prompt}>
              <th scope="row">${prompt.replaceAll("{}", name)}</th>
              ${photos.length > 0 && html`<td class="drawings-photo">${photos[row] && html`<span class="drawing"><${Picture} src=${photos[row].url} alt=${`A photo of ${concept.handle}`} width=${256} /></span>`}</td>`}
              ${columns.map(({ delta }) => {
                const each = wanted(prompt, delta);
                return html`<td key=${delta ?? "base"}><${Cell} sample=${found.get(each.id)} prompt=${each.prompt} onAgain=${again} /></td>`;
              })}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  <//>`;
}

/** @param {Wanted} wanted */
async function start({ id, delta, prompt, seed }) {
  try {
    const { body } = await api.post("v1/samples", { prompt, seed, n: 1, external_id: id, ...(delta ? { concepts: [{ delta }] } : {}) });
    return body;
  } catch (problem) {
    // Another tab has asked for it meanwhile.
    if (!(problem instanceof Problem) || problem.code !== "external_id_taken") throw problem;
    return (await find(id)) ?? Promise.reject(problem);
  }
}

const find = async (/** @type {string} */ id) => (await api.get(`v1/samples?external_id=${encodeURIComponent(id)}&limit=1`)).body.data[0] ?? null;

/** The samples that are there already. @param {Wanted[]} all */
function useSamples(all) {
  const [state, setState] = useState({ found: /** @type {Map<string, any>} */ (new Map()), loading: true });
  const latest = useRef(all);
  latest.current = all;
  const reload = useCallback(async () => {
    const samples = await Promise.all(all.map(({ id }) => find(id).catch(() => null)));
    if (latest.current === all) setState({ found: new Map(all.map(({ id }, index) => [id, samples[index]])), loading: false });
  }, [all]);
  useEffect(() => {
    setState((/** @type {any} */ former) => ({ ...former, loading: true }));
    reload();
  }, [reload]);
  const put = (/** @type {string} */ id, /** @type {any} */ sample) => setState((/** @type {any} */ former) => ({ ...former, found: new Map(former.found).set(id, sample) }));
  return { ...state, reload, put };
}

/** The external id of a cell: short, and the same for the same image. @param {string | null} delta @param {string} prompt @param {number} seed */
function idOf(delta, prompt, seed) {
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (const character of prompt) {
    const code = /** @type {number} */ (character.codePointAt(0));
    high = Math.imul(high ^ code, 2654435761);
    low = Math.imul(low ^ code, 1597334677);
  }
  return `studio:${delta ?? "base"}:${seed}:${(high >>> 0).toString(16)}${(low >>> 0).toString(16)}`;
}

/** @param {{sample: any, prompt: string, onAgain: (sample: any) => void}} props */
function Cell({ sample, prompt, onAgain }) {
  const { body } = useJob(sample && !hasEnded(sample) ? sample.urls.self : null);
  const now = body ?? sample;
  if (!now) return html`<span class="drawing drawing-none"><${Icon} name="images" size=${22} /></span>`;
  if (now.status === "succeeded" && now.images[0]) {
    return html`<a class="drawing" href=${link(`/images/${now.images[0].id}`)}><${Picture} src=${now.images[0].url} alt=${prompt} width=${256} /></a>`;
  }
  if (hasEnded(now)) {
    return html`<span class="drawing drawing-none"><span class="small">${sentence(now.error?.detail ?? "It was stopped")}</span><${Button} small onClick=${() => onAgain(now)}>Remove<//></span>`;
  }
  return html`<span class="drawing drawing-none"><span class="small muted">${phaseText(now)}</span><${Bar} value=${share(now)} label="Progress" /></span>`;
}

/** @param {{prompts: string[], seed: number, name: string, onDone: (prompts: string[], seed: number) => void}} props */
function Prompts({ prompts, seed, name, onDone }) {
  const [text, setText] = useState(prompts.join("\n"));
  const [number, setNumber] = useState(/** @type {number | null} */ (seed));
  const [ok, setOk] = useState(true);
  const lines = [...new Set(text.split("\n").map((/** @type {string} */ line) => line.trim()).filter(Boolean))];
  const error = lines.length === 0 ? "Write at least one." : lines.length > MAX_PROMPTS ? `At most ${MAX_PROMPTS}, so that they can be compared.` : null;
  return html`<div class="prompts stack-small">
    <${TextField} multiline rows="4" label="Prompts, one a line" hint=${html`<code>{}</code> stands for <code>${name}</code>.`} error=${error} value=${text} onValue=${setText} />
    <div class="row">
      <${NumberField} integer label="Seed" value=${number} onValue=${(/** @type {any} */ value, /** @type {boolean} */ fine) => (setNumber(value), setOk(fine && value !== null))} />
    </div>
    <div><${Button} small kind="primary" disabled=${Boolean(error) || !ok} onClick=${() => onDone(lines, number ?? seed)}>Use these<//></div>
  </div>`;
}
