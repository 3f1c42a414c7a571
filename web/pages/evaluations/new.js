/** The form of a new evaluation, with what a dry run says of it. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api, idempotencyKey } from "../../api.js";
import { duration, plural } from "../../format.js";
import { drafts, useStored } from "../../store.js";
import { Button } from "../../ui/button.js";
import { CopyCurl } from "../../ui/copy.js";
import { Dialog } from "../../ui/dialog.js";
import { CheckField, Field, FormProblem, NumberField, SelectField, TextField } from "../../ui/field.js";
import { Notice, Warnings } from "../../ui/notice.js";
import { useCapabilities, useGet, useSettled } from "../../ui/load.js";
import { useService } from "../studio/concepts.js";

const SETS = [
  { value: "object", label: "A thing (twenty prompts)" },
  { value: "living_thing", label: "An animal or a person (twenty prompts)" },
  { value: "wearable", label: "Something to wear (twenty prompts)" },
  { value: "scene", label: "A place (twenty prompts)" },
  { value: "", label: "Only my own prompts" },
];

/** How many concepts are offered at once; the others are found by typing. */
const OFFERED = 24;

const EMPTY = {
  chosen: /** @type {string[]} */ ([]),
  versions: false,
  base: true,
  set: "object",
  prompts: "",
  images: /** @type {number | null} */ (4),
  steps: /** @type {number | null} */ (null),
  guidance: /** @type {number | null} */ (null),
};

/** @param {{onClose: () => void, onMade: (job: any) => void}} props */
export function NewEvaluation({ onClose, onMade }) {
  const can = useCapabilities();
  const [word, setWord] = useState("");
  const [isLooking, setLooking] = useState(false);
  const { concepts, loaded, isAll } = useService(isLooking);
  const trained = concepts.filter((each) => each.current_delta);
  const [draft, setDraft] = useStored("evaluation-new", EMPTY);
  const change = (/** @type {Partial<typeof EMPTY>} */ changes) => setDraft((former) => ({ ...former, ...changes }));
  const { chosen, versions, base, set, prompts, images, steps, guidance } = draft;
  const [unusable, setUnusable] = useState(/** @type {Record<string, boolean>} */ ({}));
  const number = (/** @type {"images" | "steps" | "guidance"} */ name) => (/** @type {number | null} */ value, /** @type {boolean} */ fine) => {
    setUnusable((former) => ({ ...former, [name]: !fine }));
    if (fine) change({ [name]: value });
  };
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [dry, setDry] = useState(/** @type {any} */ (null));
  const [key, setKey] = useState(idempotencyKey);
  const one = chosen.length === 1 ? (trained.find((each) => each.handle === chosen[0]) ?? null) : null;
  const deltas = useGet(one ? `v1/deltas?concept=${one.id}&limit=8` : null);
  const several = (deltas.body?.data ?? []).filter((/** @type {any} */ delta) => delta.concepts.length === 1);

  const subjects =
    one && versions && several.length > 1
      ? several.slice(0, base ? 7 : 8).map((/** @type {any} */ delta, /** @type {number} */ index) => ({ name: delta.id === one.current_delta ? `${one.handle} (current)` : `${one.handle} (${index + 1})`, concepts: [{ concept: one.id, delta: delta.id }] }))
      : chosen.map((handle) => ({ concepts: [{ concept: handle }] }));
  const body = {
    subjects: base ? [...subjects, { base: true }] : subjects,
    ...(chosen.length > 1 ? { concepts: chosen } : {}),
    ...(set ? { prompt_set: set } : {}),
    ...(prompts.trim() ? { prompts: prompts.split("\n").map((text) => text.trim()).filter(Boolean) } : {}),
    images_per_prompt: images ?? undefined,
    num_inference_steps: steps ?? undefined,
    guidance_scale: guidance ?? undefined,
  };
  const asked = useSettled(JSON.stringify(body), 400);
  useEffect(() => {
    if (!chosen.length) return setDry(null);
    let there = true;
    api.post("v1/evaluations", { ...JSON.parse(asked), dry_run: true }, { key: null }).then(
      (answer) => there && (setDry(answer.body), setProblem(null)),
      (cause) => there && (setDry(null), setProblem(cause)),
    );
    return () => void (there = false);
  }, [asked, chosen.length]);
  const start = async () => {
    try {
      const { body: job } = await api.post("v1/evaluations", body, { key });
      drafts.set("evaluation-new", null);
      onMade(job);
    } catch (cause) {
      setProblem(cause);
      setKey(idempotencyKey());
    }
  };
  const wanted = word.trim().toLowerCase();
  const offered = trained.filter(({ handle, class_noun }) => !chosen.includes(handle) && (handle.includes(wanted) || class_noun.includes(wanted)));
  const listed = [...trained.filter(({ handle }) => chosen.includes(handle)), ...offered].slice(0, OFFERED);
  const choose = (/** @type {string} */ handle, /** @type {boolean} */ on) => change({ chosen: on ? [...chosen, handle] : chosen.filter((each) => each !== handle) });
  const shown = ["/subjects", "/prompt_set", "/prompts", "/images_per_prompt", "/num_inference_steps", "/guidance_scale"];
  return html`<${Dialog}
    title="New evaluation"
    wide
    onClose=${onClose}
    actions=${html`<${CopyCurl} path="v1/evaluations" body=${body} small=${false} /><${Button} kind="primary" disabled=${!chosen.length || problem?.status === 422 || Object.values(unusable).some(Boolean)} onClick=${start}>Start<//>`}
  >
    <${FormProblem} problem=${problem} shown=${shown} />
    <${Field} label="Concepts" hint="Each becomes a subject that draws the same prompts." pointer="/subjects" problem=${problem}>
      ${(/** @type {any} */ a) => html`<div ...${a} role="group" class="evaluation-choices">
        ${(trained.length > 8 || !isAll) && html`<input class="input" type="search" placeholder="Find a concept" aria-label="Find a concept" onFocus=${() => setLooking(true)} value=${word} onInput=${(/** @type {any} */ event) => setWord(event.currentTarget.value)} />`}
        ${listed.map(({ id, handle }) => html`<${CheckField} key=${id} label=${handle} checked=${chosen.includes(handle)} onValue=${(/** @type {boolean} */ on) => choose(handle, on)} />`)}
        ${offered.length > OFFERED && html`<p class="muted small">${offered.length} concepts. Type to find one.</p>`}
        ${loaded && !listed.length && html`<p class="muted">${wanted ? "No trained concept matches." : "No concept is trained yet."}</p>`}
      </div>`}
    <//>
    <div class="stack-small">
      ${several.length > 1 && html`<${CheckField} label=${`All ${several.length} versions of ${one?.handle}`} hint="Each is a subject, on the same seeds." checked=${versions} onValue=${(/** @type {boolean} */ on) => change({ versions: on })} />`}
      <${CheckField} label="The base model beside them" hint="Then the report says how much of the way to the photos was made." checked=${base} onValue=${(/** @type {boolean} */ on) => change({ base: on })} />
    </div>
    <${SelectField} label="Prompts" pointer="/prompt_set" problem=${problem} value=${set} onValue=${(/** @type {string} */ name) => change({ set: name })} options=${SETS} />
    <${TextField} label="Prompts of your own" optional multiline pointer="/prompts" problem=${problem} value=${prompts} onValue=${(/** @type {string} */ text) => change({ prompts: text })} hint=${html`One on each line; <code>{}</code> stands for the concept’s name.`} placeholder=${"a photo of {} in the snow\na painting of {}"} />
    <div class="fields">
      <${NumberField} label="Images of each prompt" integer min=${1} max=${1000} pointer="/images_per_prompt" problem=${problem} value=${images} onValue=${number("images")} />
      <${NumberField} label="Steps" integer min=${1} max=${can?.limits.num_inference_steps_max ?? 1000} placeholder="50" pointer="/num_inference_steps" problem=${problem} value=${steps} onValue=${number("steps")} />
      <${NumberField} label="Guidance" min=${0} max=${100} placeholder="6" pointer="/guidance_scale" problem=${problem} value=${guidance} onValue=${number("guidance")} />
    </div>
    ${dry &&
    html`<${Notice} title=${`About ${duration(dry.estimate.run_seconds)}${dry.estimate.queue_seconds >= 1 ? `, after ${duration(dry.estimate.queue_seconds)} in the queue` : ""}`}>
      <p>${plural(dry.resolved.subjects.length, "subject")}, ${plural(dry.resolved.prompts.length, "prompt")}, ${plural(dry.resolved.subjects.length * dry.resolved.prompts.length * dry.resolved.settings.n, "image")} in all.</p>
    <//>`}
    <${Warnings} warnings=${dry?.warnings} />
  <//>`;
}
