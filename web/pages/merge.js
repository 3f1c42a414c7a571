/** One merge that was kept: how it goes, how well it keeps its concepts, and how it is used. */
import { html } from "../ui/html.js";
import { api } from "../api.js";
import { link, navigate } from "../router.js";
import { percent, plural, short, shortId, time } from "../format.js";
import { Badge, Facts, Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { CopyButton, CopyCurl } from "../ui/copy.js";
import { confirm } from "../ui/dialog.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { JobCard, cancelJob, hasEnded, useJob } from "../ui/job.js";
import { Notice, ProblemNotice } from "../ui/notice.js";
import { toast } from "../ui/toast.js";
import { useConcepts } from "../ui/names.js";
import { inPrompt } from "./studio/prompt.js";

/** @type {Record<string, [string, any, string]>} */
const VERDICTS = {
  ok: ["Goes well", "ok", "The concepts stay what they are, and other prompts hardly change."],
  risky: ["May suffer", "warn", "Some of a concept, or of other prompts, changes. Look at images before you rely on it."],
  conflict: ["In conflict", "fail", "The concepts get into each other's way. Train them jointly, or draw them by regions."],
};

/** @param {{params: {id: string}}} props */
export default function Merge({ params }) {
  const path = `v1/merges/${params.id}`;
  const { body: job, problem, lost, reload } = useJob(path);
  const concepts = useConcepts(job?.concepts ?? []);
  const back = { href: link("/compose"), label: "Compose" };
  if (problem?.status === 404) {
    return html`<${Empty} whole icon="search" title="There is no such merge" action=${html`<${Button} href=${link("/compose")}>To Compose<//>`}><p>It may have been deleted.</p><//>`;
  }
  if (!job) {
    return html`<${Page} title="Merge" back=${back}><${ProblemNotice} problem=${problem} retry=${reload} />${!problem && html`<${Skeleton} rows=${4} height="3rem" />`}<//>`;
  }
  const names = job.concepts.map((/** @type {string} */ id) => concepts.get(id)?.handle ?? shortId(id));
  const merged = job.concepts.map((/** @type {string} */ id) => concepts.get(id)).filter(Boolean);
  const remove = async () => {
    const gone = await confirm({
      title: "Delete this merge?",
      text: html`<p>The merged delta and its report are deleted. The concepts and their own deltas stay.</p>`,
      yes: "Delete it",
      danger: true,
      action: async () => (await api.delete(`${path}?cascade=true`), true),
    });
    if (gone) {
      toast("Merge deleted");
      navigate("/compose");
    }
  };
  return html`<${Page}
    title=${names.join(" with ")}
    plainTitle=${`Merge of ${names.join(" and ")}`}
    back=${back}
    lead=${`${plural(job.deltas.length, "delta")} in one, ${job.method === "hard" ? "kept exactly" : "balanced against other prompts"}.`}
    actions=${hasEnded(job) && html`<${Button} kind="danger" icon="trash" label="Delete this merge" onClick=${remove} />`}
  >
    ${job.status !== "succeeded" && html`<div class="card"><${JobCard} job=${job} lost=${lost} onCancel=${() => cancelJob(job, reload)} /></div>`}
    ${job.report && html`<${Report} report=${job.report} names=${names} />`}
    ${job.delta && html`<${Use} delta=${job.delta} concepts=${merged} />`}
    <${Section} title="How it was made">
      <${Facts}
        rows=${[
          ["Method", job.method],
          ["Weight of the concepts", short(job.constraint_weight)],
          ["Keeps as they are", job.protect.map((/** @type {string} */ text) => (text === "empty_prompt" ? "the empty prompt" : "class words")).join(", ") || "nothing exactly"],
          ["Ordinary prompts", job.captions ? plural(job.captions.length, "prompt") : "those of the base model's class images"],
          ["Requested", time(job.created_at)],
          ["Id", html`<code>${job.id}</code>`],
        ]}
      />
    <//>
  <//>`;
}

/** @param {{report: any, names: string[]}} props */
function Report({ report, names }) {
  const [title, kind, text] = VERDICTS[report.verdict] ?? [report.verdict, "info", ""];
  const order = report.deltas.map((/** @type {any} */ each) => each.delta);
  const nameOf = (/** @type {string} */ delta) => (order.length === names.length ? names[order.indexOf(delta)] : shortId(delta));
  return html`<${Notice} kind=${kind} title=${title}><p>${text}</p><//>
    <${Facts}
      rows=${[
        ["Change of the concepts", percentOf(report.constraint_error)],
        ["Change of other prompts", percentOf(report.drift)],
        ["Condition of the system", report.condition === null ? "not finite" : short(report.condition)],
      ]}
    />
    ${report.pairs.length > 0 &&
    html`<${Section} title="Pair by pair">
      <div class="table-box" tabindex="0" role="region" aria-label="Pair by pair">
        <table class="table">
          <thead>
            <tr><th scope="col">Pair</th><th scope="col">Verdict</th><th scope="col" class="number">Overlap</th><th scope="col" class="number">Change merged</th><th scope="col" class="number">Change alone</th><th scope="col" class="number">Other prompts</th></tr>
          </thead>
          <tbody>
            ${report.pairs.map((/** @type {any} */ pair) => {
              const [word, state] = VERDICTS[pair.verdict] ?? [pair.verdict, "neutral"];
              return html`<tr key=${pair.deltas.join()}>
                <th scope="row">${pair.deltas.map(nameOf).join(" and ")}</th>
                <td><${Badge} kind=${state}>${word}<//></td>
                <td class="number">${short(pair.overlap, 2)}</td>
                <td class="number">${percentOf(pair.constraint_error)}</td>
                <td class="number">${percentOf(pair.constraint_error_alone)}</td>
                <td class="number">${percentOf(pair.drift)}</td>
              </tr>`;
            })}
          </tbody>
        </table>
      </div>
    <//>`}`;
}

/** A share with enough digits to tell small ones apart. @param {number | null} value */
const percentOf = (value) => (value === null || value === undefined ? "–" : value < 0.01 ? `${short(value * 100, 2)} %` : percent(value));

/** @param {{delta: string, concepts: any[]}} props */
function Use({ delta, concepts }) {
  const prompt = `photo of ${concepts.map((each) => `a ${inPrompt(each)}`).join(" and ") || "…"}`;
  return html`<${Section} title="Draw with it" lead="The merged delta is used like any other: name it, and write the concepts' tokens into the prompt.">
    <div class="row">
      <${Button} kind="primary" icon="studio" href=${link("/studio", { prompt, concept: concepts.map(({ handle }) => handle).join(), delta })}>Use in the studio<//>
      <${CopyCurl} path="v1/samples" body=${{ prompt, concepts: [{ delta }] }} small=${false} />
    </div>
    <p class="small"><span class="muted">Its id:</span> <code>${delta}</code> <${CopyButton} text=${delta} label="Copy the delta's id" kind="quiet" /></p>
  <//>`;
}
