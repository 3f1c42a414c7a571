/** One evaluation: how it goes, its figures, and all subjects side by side on the same seeds. */
import { html } from "../ui/html.js";
import { api } from "../api.js";
import { link, navigate } from "../router.js";
import { plural, short, shortId, size, time } from "../format.js";
import { Facts, Page, Section, Tabs } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { confirm } from "../ui/dialog.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { JobCard, cancelJob, hasEnded, useJob } from "../ui/job.js";
import { ProblemNotice } from "../ui/notice.js";
import { toast } from "../ui/toast.js";
import { Figures } from "./evaluations/figures.js";
import { SideBySide } from "./evaluations/side-by-side.js";
import { Files } from "./evaluations/files.js";

/** @param {{params: {id: string}, query: Record<string, string>}} props */
export default function Evaluation({ params, query }) {
  const path = `v1/evaluations/${params.id}`;
  const { body: job, problem, lost, reload } = useJob(path);
  const back = { href: link("/evaluations"), label: "Evaluations" };
  if (problem?.status === 404) {
    return html`<${Empty} whole icon="search" title="There is no such evaluation" action=${html`<${Button} href=${link("/evaluations")}>To the evaluations<//>`}><p>It may have been deleted.</p><//>`;
  }
  if (!job) {
    return html`<${Page} title="Evaluation" back=${back}><${ProblemNotice} problem=${problem} retry=${reload} />${!problem && html`<${Skeleton} rows=${4} height="4rem" />`}<//>`;
  }
  const title = job.subjects.map((/** @type {any} */ subject) => subject.name).join(", ");
  const tab = query.tab ?? "figures";
  const tabs = [
    { id: "figures", label: "Figures" },
    { id: "images", label: "Side by side" },
    { id: "files", label: "Plots and sheet" },
    { id: "settings", label: "Settings" },
  ].map((each) => ({ ...each, href: link(`/evaluations/${params.id}`, { tab: each.id }) }));
  const remove = async () => {
    const gone = await confirm({
      title: "Delete this evaluation?",
      text: html`<p>Its report, its plots and its ${plural(job.subjects.length * job.prompts.length * job.settings.n, "image")} are deleted. Concepts and deltas stay.</p>`,
      yes: "Delete it",
      danger: true,
      action: async () => (await api.delete(`${path}?cascade=true`), true),
    });
    if (gone) {
      toast("Evaluation deleted");
      navigate("/evaluations");
    }
  };
  return html`<${Page}
    title=${title}
    back=${back}
    wide
    lead=${`${plural(job.prompts.length, "prompt")}, ${plural(job.settings.n, "image")} of each, compared with the photos of ${job.concepts.map((/** @type {any} */ concept) => concept.handle).join(" and ") || "no concept"}.`}
    actions=${hasEnded(job) && html`<${Button} kind="danger" icon="trash" label="Delete this evaluation" onClick=${remove} />`}
  >
    ${job.status !== "succeeded" && html`<div class="card"><${JobCard} job=${job} lost=${lost} onCancel=${() => cancelJob(job, reload)} /></div>`}
    <${Tabs} label="Evaluation" selected=${tab} tabs=${tabs} />
    ${tab === "figures" && (job.report ? html`<${Figures} report=${job.report} />` : html`<p class="muted">The figures are here as soon as all images are drawn and compared.</p>`)}
    ${tab === "images" && html`<${SideBySide} job=${job} />`}
    ${tab === "files" && html`<${Files} job=${job} />`}
    ${tab === "settings" && html`<${Settings} job=${job} />`}
  <//>`;
}

/** @param {{job: any}} props */
function Settings({ job }) {
  const { settings, evaluator } = job;
  return html`<${Facts}
      rows=${[
        ["Seed", settings.seed],
        ["Steps", settings.num_inference_steps],
        ["Guidance", short(settings.guidance_scale)],
        ["Scheduler", settings.scheduler],
        ["Size", `${settings.width} × ${settings.height}`],
        ["Negative prompt", job.negative_prompt || "none"],
        ["Evaluator", html`${evaluator.name} <span class="muted">at ${evaluator.image_size} pixels</span>`],
        ["Requested", time(job.created_at)],
        ["Ended", job.finished_at ? time(job.finished_at) : null],
        ["Id", html`<code>${job.id}</code>`],
        job.held_out ? ["Held-out images", `${job.held_out.count ?? ""} ${job.held_out.size_bytes ? size(job.held_out.size_bytes) : ""}`] : ["Held-out images", null],
      ]}
    />
    <${Section} title="Subjects">
      <div class="table-box" tabindex="0" role="region" aria-label="Subjects">
        <table class="table">
          <thead><tr><th scope="col">Subject</th><th scope="col">Deltas</th><th scope="col">Composition</th></tr></thead>
          <tbody>
            ${job.subjects.map(
              (/** @type {any} */ subject) => html`<tr key=${subject.name}>
                <th scope="row">${subject.name}</th>
                <td>${subject.deltas.length ? subject.deltas.map((/** @type {any} */ use) => html`<code key=${use.delta} title=${use.delta}>${shortId(use.delta)}</code>${use.strength === 1 ? "" : ` × ${short(use.strength)}`} `) : html`<span class="muted">the base model alone</span>`}</td>
                <td>${subject.composition ?? subject.merge?.method ?? "–"}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
    <//>`;
}
