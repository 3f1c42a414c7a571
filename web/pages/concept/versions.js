/** The versions of a concept: what each training has made, which one is used, and how they compare. */
import { html, classes, useEffect, useMemo, useRef } from "../../ui/html.js";
import { api } from "../../api.js";
import { link } from "../../router.js";
import { useStored } from "../../store.js";
import { ago, percent, short, shortId, size, time } from "../../format.js";
import { Badge, Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Empty, Skeleton } from "../../ui/empty.js";
import { confirm } from "../../ui/dialog.js";
import { Notice, ProblemNotice } from "../../ui/notice.js";
import { sentence } from "../../ui/field.js";
import { toast, toastProblem } from "../../ui/toast.js";
import { JobCard } from "../../ui/job.js";
import { useCapabilities, useGet } from "../../ui/load.js";
import { Drawings } from "./drawings.js";

/** As many columns can be looked at side by side. */
const COMPARED = 4;

/** Kinds whose prompts say what a living thing does. */
const LIVING = new Set(["dog", "cat", "person", "man", "woman", "child", "boy", "girl", "baby", "horse", "bird", "rabbit", "turtle", "hamster", "puppy", "kitten", "cow", "fish"]);

/** @param {{concept: any, onChange: () => void, trainAt: string, running: any}} props */
export function Versions({ concept, onChange, trainAt, running }) {
  const deltas = useGet(`v1/deltas?concept=${concept.id}`, { all: true });
  const evaluations = useGet(`v1/evaluations?concept=${concept.id}&limit=50`, { every: 10 });
  const promotions = useGet(`v1/concepts/${concept.id}/promotions?limit=50`);
  const [chosen, setChosen] = useStored(`versions ${concept.id}`, /** @type {string[] | null} */ (null));
  const versions = deltas.body ?? [];
  const figures = useMemo(() => figuresOf(evaluations.body?.data ?? []), [evaluations.body]);
  const numbers = new Map(versions.map((/** @type {any} */ delta, /** @type {number} */ index) => [delta.id, versions.length - index]));
  const compared = chosen ?? versions.slice(0, COMPARED - 1).map((/** @type {any} */ delta) => delta.id);
  const changed = () => (onChange(), deltas.reload(), promotions.reload());
  const capabilities = useCapabilities();
  // When a training ends, it has made a version.
  const ran = useRef(running?.id);
  useEffect(() => {
    if (ran.current && ran.current !== running?.id) (deltas.reload(), promotions.reload());
    ran.current = running?.id;
  }, [running?.id]);

  if (deltas.problem) return html`<${ProblemNotice} problem=${deltas.problem} retry=${deltas.reload} />`;
  if (!deltas.body) return html`<${Skeleton} rows=${2} height="6rem" />`;
  if (!versions.length) {
    return running
      ? html`<div class="card"><${JobCard} job=${running} compact /><div><${Button} href=${link(`/trainings/${running.id}`)}>Watch it<//></div></div>`
      : html`<${Empty} icon="concepts" title="Nothing learned yet" action=${html`<${Button} kind="primary" href=${trainAt}>Go to the training<//>`}><p>Each training makes a version. You choose which one prompts use.</p><//>`;
  }
  const toggle = (/** @type {string} */ id) => setChosen(compared.includes(id) ? compared.filter((/** @type {string} */ each) => each !== id) : [...compared, id].slice(-COMPARED));
  const columns = [
    { delta: null, name: "Before", note: "the base model" },
    ...versions.filter((/** @type {any} */ delta) => compared.includes(delta.id)).reverse().map((/** @type {any} */ delta) => ({ delta: delta.id, name: `Version ${numbers.get(delta.id)}`, note: delta.id === concept.current_delta ? "in use" : null })),
  ];

  return html`<div class="stack versions">
    ${running && html`<div class="card"><${JobCard} job=${running} compact /><div><${Button} small href=${link(`/trainings/${running.id}`)}>Watch it<//></div></div>`}
    ${!concept.current_delta && html`<${Notice} kind="warn" title="No version is in use">Prompts cannot name ${concept.handle} until you use one.<//>`}
    <ul class="version-list">
      ${versions.map(
        (/** @type {any} */ delta) => html`<${Version}
          key=${delta.id}
          delta=${delta}
          number=${numbers.get(delta.id)}
          concept=${concept}
          figures=${figures.get(delta.id)}
          compared=${compared.includes(delta.id)}
          onCompare=${() => toggle(delta.id)}
          onChange=${changed}
          onEvaluate=${capabilities?.evaluator && evaluations.reload}
        />`,
      )}
    </ul>
    <${Drawings} concept=${concept} columns=${columns} title="Side by side" lead=${versions.length > 1 ? "The same prompts and the same seed in each column. Choose the versions with the check marks above." : undefined} />
    <${History} promotions=${promotions.body?.data ?? []} numbers=${numbers} concept=${concept} onChange=${changed} />
  </div>`;
}

/** The newest figures of each version: those of the evaluations that looked at it alone. @param {any[]} evaluations */
function figuresOf(evaluations) {
  const found = new Map();
  for (const evaluation of evaluations) {
    for (const [index, subject] of evaluation.subjects.entries()) {
      const [use] = subject.deltas;
      if (subject.deltas.length !== 1 || found.has(use.delta)) continue;
      const report = evaluation.report?.subjects.find((/** @type {any} */ each) => each.name === subject.name) ?? evaluation.report?.subjects[index];
      if (report || !["failed", "canceled", "succeeded"].includes(evaluation.status)) found.set(use.delta, { evaluation, report });
    }
  }
  return found;
}

/** @param {{delta: any, number: any, concept: any, figures: any, compared: boolean, onCompare: () => void, onChange: () => void, onEvaluate?: () => any}} props */
function Version({ delta, number, concept, figures, compared, onCompare, onChange, onEvaluate }) {
  const current = delta.id === concept.current_delta;
  const kind = delta.made_by.split("/")[2];
  const origin = { trainings: "training", merges: "merge", compressions: "compression" }[/** @type {"merges"} */ (kind)] ?? "job";
  const joint = delta.concepts.filter((/** @type {any} */ each) => each.id !== concept.id).map((/** @type {any} */ each) => each.handle);
  const promote = async () => {
    try {
      await api.post(`v1/concepts/${concept.id}/promote`, { delta: delta.id });
      toast(`Version ${number} is in use`);
      onChange();
    } catch (problem) {
      toastProblem(problem);
    }
  };
  const evaluate = async () => {
    try {
      await api.post("v1/evaluations", {
        subjects: [{ base: true, name: "base model" }, { name: `version ${number}`, concepts: [{ delta: delta.id }] }],
        concepts: [concept.handle],
        prompt_set: LIVING.has(concept.class_noun.split(" ").pop()) ? "living_thing" : "object",
        images_per_prompt: 2,
      });
      toast("The evaluation is in the queue");
      await onEvaluate?.();
    } catch (problem) {
      toastProblem(problem);
    }
  };
  return html`<li class=${classes("version", current && "version-current")}>
    <label class="version-check"><input type="checkbox" checked=${compared} onChange=${onCompare} /><span class="visually-hidden">Show version ${number} side by side</span></label>
    <div class="version-main">
      <h2>Version ${number} ${current && html`<${Badge} kind="ok">In use<//>`}</h2>
      <p class="muted small">
        ${ago(delta.created_at)}, by a ${kind === "trainings" ? html`<a href=${link(`/trainings/${delta.made_by.split("/")[3]}`)}>training</a>` : kind === "merges" ? html`<a href=${link(`/merges/${delta.made_by.split("/")[3]}`)}>merge</a>` : origin}
        ${joint.length > 0 && ` with ${joint.join(", ")}`} · ${size(delta.size_bytes)} · <span title=${delta.id}>${shortId(delta.id)}</span>
      </p>
    </div>
    <${Figures} figures=${figures} onEvaluate=${onEvaluate && evaluate} />
    <div class="version-actions">
      ${!current && html`<${Button} small onClick=${promote}>Use this one<//>`}
      <${Button} small icon="studio" label=${`Try version ${number} in the studio`} href=${link("/studio", { prompt: `photo of a ${concept.modifier_token ? `${concept.modifier_token} ` : ""}${concept.class_noun}`, concept: concept.handle, delta: delta.id })} />
      <${Button} small kind="quiet" icon="trash" label=${`Delete version ${number}`} onClick=${() => void deleteVersion(delta, number, onChange)} />
    </div>
  </li>`;
}

/** @param {{figures: any, onEvaluate?: () => Promise<void>}} props `onEvaluate` is missing where the service cannot evaluate. */
function Figures({ figures, onEvaluate }) {
  if (!figures && !onEvaluate) return null;
  if (!figures) return html`<div class="version-figures"><${Button} small kind="quiet" icon="evaluations" onClick=${onEvaluate}>Evaluate<//></div>`;
  const { evaluation, report } = figures;
  const at = link(`/evaluations/${evaluation.id}`);
  if (!report) return html`<div class="version-figures"><a class="small" href=${at}><span class="pulse"></span> Being evaluated</a></div>`;
  const learned = report.share?.mean;
  return html`<a class="version-figures" href=${at} aria-label="The evaluation">
    ${learned !== null && learned !== undefined && html`<span><b>${percent(learned)}</b><span class="muted small" title="How much of the way from the base model's images to the photos has been made">learned</span></span>`}
    <span><b>${short(report.image_alignment?.mean, 2)}</b><span class="muted small" title="How well its images agree with the photos">like the photos</span></span>
    <span><b>${short(report.text_alignment?.mean, 2)}</b><span class="muted small" title="How well its images agree with their prompts">like the prompts</span></span>
  </a>`;
}

/** @param {any} delta @param {any} number @param {() => void} onChange */
async function deleteVersion(delta, number, onChange) {
  const path = `v1/deltas/${delta.id}`;
  /** @type {any} */
  let refused = null;
  const first = await confirm({
    title: `Delete version ${number}?`,
    text: html`<p>Its file of ${size(delta.size_bytes)} is deleted. Images that it has drawn stay.</p>`,
    yes: "Delete",
    danger: true,
    action: async () => {
      try {
        return await api.delete(path);
      } catch (problem) {
        if (/** @type {any} */ (problem).status !== 409) throw problem;
        refused = problem;
        return "refused";
      }
    },
  });
  if (!first) return;
  if (refused) {
    const second = await confirm({
      title: "It is in use",
      text: html`<ul class="bullets">${refused.errors.map((/** @type {any} */ error) => html`<li key=${error.detail}>${sentence(error.detail)}</li>`)}</ul>
        <p>If you delete it anyway, the concept goes back to the version before.</p>`,
      yes: "Delete it anyway",
      danger: true,
      action: () => api.delete(`${path}?cascade=true`),
    });
    if (!second) return;
  }
  toast(`Version ${number} deleted`);
  onChange();
}

/** @param {{promotions: any[], numbers: Map<string, number>, concept: any, onChange: () => void}} props */
function History({ promotions, numbers, concept, onChange }) {
  if (!promotions.length) return null;
  const before = promotions.filter((each) => !each.rolled_back_at);
  const rollBack = async () => {
    try {
      const { body } = await api.post(`v1/concepts/${concept.id}/rollback`);
      toast(`Back to version ${numbers.get(body.current_delta) ?? shortId(body.current_delta)}`);
      onChange();
    } catch (problem) {
      toastProblem(problem);
    }
  };
  return html`<${Section} title="Which version was in use" aside=${before.length > 1 && html`<${Button} small icon="undo" onClick=${rollBack}>Roll back<//>`}>
    <div class="table-box">
      <table class="table">
        <thead><tr><th scope="col">Version</th><th scope="col">Since</th><th scope="col">By</th><th scope="col"><span class="visually-hidden">Since then</span></th></tr></thead>
        <tbody>
          ${promotions.map(
            (each) => html`<tr key=${each.promoted_at}>
              <td>${numbers.has(each.delta) ? `Version ${numbers.get(each.delta)}` : html`<span title=${each.delta}>${shortId(each.delta)}, deleted</span>`}</td>
              <td>${time(each.promoted_at)}</td>
              <td>${each.promoted_by === "job" ? "its training" : "request"}</td>
              <td class="muted small">${each.rolled_back_at ? `rolled back ${ago(each.rolled_back_at)}` : ""}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  <//>`;
}
