/** A preference study: its links, and what people have chosen. */
import { html, useEffect } from "../ui/html.js";
import { api, relative } from "../api.js";
import { link, navigate } from "../router.js";
import { count, percent, plural, short } from "../format.js";
import { Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { CopyButton } from "../ui/copy.js";
import { confirm } from "../ui/dialog.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { ProblemNotice } from "../ui/notice.js";
import { toast, toastProblem } from "../ui/toast.js";
import { useGet } from "../ui/load.js";

/** @type {Record<string, string>} */
const ASKED = { text: "Which fits the prompt better?", image: "Which looks more like the photos?" };

/** @param {{params: {id?: string}}} props */
export default function Preference({ params }) {
  // The list of all stands with the evaluations.
  useEffect(() => {
    if (!params.id) navigate("/evaluations", { replace: true });
  }, [params.id]);
  return params.id ? html`<${Study} id=${params.id} />` : null;
}

/** The whole address of a link, as it is sent to somebody. @param {string} path */
const whole = (path) => new URL(relative(path), document.baseURI).href;

/** @param {{id: string}} props */
function Study({ id }) {
  const path = `v1/preference-studies/${id}`;
  const { body: study, problem, reload, set } = useGet(path, { every: 5 });
  const back = { href: link("/evaluations"), label: "Evaluations" };
  if (problem?.status === 404) {
    return html`<${Empty} whole icon="search" title="There is no such vote" action=${html`<${Button} href=${link("/evaluations")}>To the evaluations<//>`}><p>It may have been deleted.</p><//>`;
  }
  if (!study) {
    return html`<${Page} title="Vote" back=${back}><${ProblemNotice} problem=${problem} retry=${reload} />${!problem && html`<${Skeleton} rows=${3} height="4rem" />`}<//>`;
  }
  const { first, second } = study;
  const add = async () => {
    try {
      set((await api.post(`${path}/links`, { links: 1 })).body);
      toast("One more link");
    } catch (cause) {
      toastProblem(cause);
    }
  };
  const remove = async () => {
    const gone = await confirm({
      title: "Delete this vote?",
      text: html`<p>Its links show nothing more, and the votes are gone.</p>`,
      yes: "Delete it",
      danger: true,
      action: async () => (await api.delete(path), true),
    });
    if (gone) navigate("/evaluations");
  };
  return html`<${Page} title=${`${first.subject} or ${second.subject}?`} back=${back} lead=${`${plural(study.pair_count, "pair")} of images, drawn from the same prompts and seeds.`} actions=${html`<${Button} kind="danger" icon="trash" label="Delete this vote" onClick=${remove} />`}>
    <${ProblemNotice} problem=${problem} retry=${reload} />
    <div class="votes">
      ${study.results.map((/** @type {any} */ result) => html`<${Result} key=${result.criterion} result=${result} first=${first.subject} second=${second.subject} />`)}
    </div>
    <${Section} title="Links" lead="One for each person: a link votes on each pair once. Nobody needs a key." aside=${html`<${Button} icon="plus" small onClick=${add}>One more<//>`}>
      <ol class="links">
        ${study.links.map(
          (/** @type {string} */ each, /** @type {number} */ index) => html`<li key=${each}>
            <span class="muted">${index + 1}</span>
            <a class="truncate" href=${relative(each)} target="_blank" rel="noreferrer">${whole(each)}</a>
            <${CopyButton} text=${whole(each)} label=${`Copy link ${index + 1}`} said="Link copied" kind="quiet" />
          </li>`,
        )}
      </ol>
    <//>
    <p class="muted small">The images come from the evaluation ${html`<a href=${link(`/evaluations/${first.evaluation}`)}>of ${first.subject}</a>`}${second.evaluation === first.evaluation ? "" : html` and from that <a href=${link(`/evaluations/${second.evaluation}`)}>of ${second.subject}</a>`}.</p>
  <//>`;
}

/** @param {{result: any, first: string, second: string}} props */
function Result({ result, first, second }) {
  const votes = result.first_votes + result.second_votes;
  const { mean, interval } = result.first_share;
  const clear = interval && (interval[0] > 0.5 || interval[1] < 0.5);
  const said = mean === null ? "No votes yet." : clear ? `People prefer ${mean > 0.5 ? first : second}.` : "It is not clear yet which people prefer.";
  return html`<div class="card vote">
    <h2>${ASKED[result.criterion] ?? result.criterion}</h2>
    <p>${said}</p>
    ${mean !== null &&
    html`<div class="vote-bar" role="img" aria-label=${`${percent(mean)} of ${votes} votes for ${first}`}>
      <span style=${{ width: `${mean * 100}%` }}></span>
      ${interval && html`<i style=${{ left: `${interval[0] * 100}%`, width: `${(interval[1] - interval[0]) * 100}%` }}></i>`}
    </div>
    <div class="vote-names"><span><b>${first}</b> ${percent(mean)}</span><span><b>${second}</b> ${percent(1 - mean)}</span></div>`}
    <p class="muted small">${plural(votes, "vote")}: ${count(result.first_votes)} and ${count(result.second_votes)}${interval ? `; 95 % interval ${short(interval[0], 2)} to ${short(interval[1], 2)}` : ""}.</p>
  </div>`;
}
