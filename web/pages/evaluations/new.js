/** The form of a new evaluation, with what a dry run says of it. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api, idempotencyKey } from "../../api.js";
import { duration, plural } from "../../format.js";
import { Button } from "../../ui/button.js";
import { CopyCurl } from "../../ui/copy.js";
import { Dialog } from "../../ui/dialog.js";
import { CheckField, Field, FormProblem, NumberField, SelectField, TextField } from "../../ui/field.js";
import { Notice, Warnings } from "../../ui/notice.js";
import { useCapabilities, useGet, useSettled } from "../../ui/load.js";

const SETS = [
  { value: "object", label: "A thing (twenty prompts)" },
  { value: "living_thing", label: "An animal or a person (twenty prompts)" },
  { value: "wearable", label: "Something to wear (twenty prompts)" },
  { value: "scene", label: "A place (twenty prompts)" },
  { value: "", label: "Only my own prompts" },
];

/** @param {{concept?: string, onClose: () => void, onMade: (job: any) => void}} props */
export function NewEvaluation({ concept, onClose, onMade }) {
  const can = useCapabilities();
  const concepts = useGet("v1/concepts?limit=100");
  const trained = (concepts.body?.data ?? []).filter((/** @type {any} */ each) => each.current_delta);
  const [chosen, setChosen] = useState(/** @type {string[]} */ (concept ? [concept] : []));
  const [versions, setVersions] = useState(false);
  const [base, setBase] = useState(true);
  const [set, setSet] = useState("object");
  const [prompts, setPrompts] = useState("");
  const [images, setImages] = useState(/** @type {number | null} */ (4));
  const [steps, setSteps] = useState(/** @type {number | null} */ (null));
  const [guidance, setGuidance] = useState(/** @type {number | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [dry, setDry] = useState(/** @type {any} */ (null));
  const [key, setKey] = useState(idempotencyKey);
  const one = chosen.length === 1 ? trained.find((/** @type {any} */ each) => each.handle === chosen[0] || each.id === chosen[0]) : null;
  const deltas = useGet(one ? `v1/deltas?concept=${one.id}&limit=8` : null);
  const several = (deltas.body?.data ?? []).filter((/** @type {any} */ delta) => delta.concepts.length === 1);

  const subjects =
    one && versions && several.length > 1
      ? several.slice(0, base ? 7 : 8).map((/** @type {any} */ delta, /** @type {number} */ index) => ({ name: delta.id === one.current_delta.id ? `${one.handle} (current)` : `${one.handle} (${index + 1})`, concepts: [{ concept: one.id, delta: delta.id }] }))
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
    api.post("v1/evaluations", { ...JSON.parse(asked), dry_run: true }).then(
      (answer) => there && (setDry(answer.body), setProblem(null)),
      (cause) => there && (setDry(null), setProblem(cause)),
    );
    return () => void (there = false);
  }, [asked, chosen.length]);
  const start = async () => {
    try {
      onMade((await api.post("v1/evaluations", body, { key })).body);
    } catch (cause) {
      setProblem(cause);
      setKey(idempotencyKey());
    }
  };
  const choose = (/** @type {string} */ handle, /** @type {boolean} */ on) => setChosen((/** @type {string[]} */ former) => (on ? [...former, handle] : former.filter((each) => each !== handle)));
  const shown = ["/subjects", "/prompt_set", "/prompts", "/images_per_prompt", "/num_inference_steps", "/guidance_scale"];
  return html`<${Dialog}
    title="New evaluation"
    wide
    onClose=${onClose}
    actions=${html`<${CopyCurl} path="v1/evaluations" body=${body} small=${false} /><${Button} kind="primary" disabled=${!chosen.length || Boolean(problem)} onClick=${start}>Start<//>`}
  >
    <${FormProblem} problem=${problem} shown=${shown} />
    <${Field} label="Concepts" hint="Each becomes a subject that draws the same prompts." pointer="/subjects" problem=${problem}>
      ${(/** @type {any} */ a) => html`<div ...${a} role="group" class="evaluation-choices">
        ${trained.map((/** @type {any} */ each) => html`<${CheckField} key=${each.id} label=${each.handle} checked=${chosen.includes(each.handle)} onValue=${(/** @type {boolean} */ on) => choose(each.handle, on)} />`)}
        ${concepts.body && !trained.length && html`<p class="muted">No concept is trained yet.</p>`}
      </div>`}
    <//>
    <div class="stack-small">
      ${several.length > 1 && html`<${CheckField} label=${`All ${several.length} versions of ${one.handle}`} hint="Each is a subject, on the same seeds." checked=${versions} onValue=${setVersions} />`}
      <${CheckField} label="The base model beside them" hint="Then the report says how much of the way to the photos was made." checked=${base} onValue=${setBase} />
    </div>
    <${SelectField} label="Prompts" pointer="/prompt_set" problem=${problem} value=${set} onValue=${setSet} options=${SETS} />
    <${TextField} label="Prompts of your own" optional multiline pointer="/prompts" problem=${problem} value=${prompts} onValue=${setPrompts} hint=${html`One on each line; <code>{}</code> stands for the concept’s name.`} placeholder=${"a photo of {} in the snow\na painting of {}"} />
    <div class="fields">
      <${NumberField} label="Images of each prompt" integer min=${1} max=${1000} pointer="/images_per_prompt" problem=${problem} value=${images} onValue=${setImages} />
      <${NumberField} label="Steps" integer min=${1} max=${can?.limits.num_inference_steps_max ?? 1000} placeholder="50" pointer="/num_inference_steps" problem=${problem} value=${steps} onValue=${setSteps} />
      <${NumberField} label="Guidance" min=${0} max=${100} placeholder="6" pointer="/guidance_scale" problem=${problem} value=${guidance} onValue=${setGuidance} />
    </div>
    ${dry &&
    html`<${Notice} title=${`About ${duration(dry.estimate.run_seconds)}${dry.estimate.queue_seconds >= 1 ? `, after ${duration(dry.estimate.queue_seconds)} in the queue` : ""}`}>
      <p>${plural(dry.resolved.subjects.length, "subject")}, ${plural(dry.resolved.prompts.length, "prompt")}, ${plural(dry.resolved.subjects.length * dry.resolved.prompts.length * dry.resolved.settings.n, "image")} in all.</p>
    <//>`}
    <${Warnings} warnings=${dry?.warnings} />
  <//>`;
}
