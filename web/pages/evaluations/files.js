/** The plots and the contact sheet that the service makes, to look at and to download. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api, relative } from "../../api.js";
import { Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Skeleton } from "../../ui/empty.js";
import { ProblemNotice } from "../../ui/notice.js";

/** @param {{job: any}} props */
export function Files({ job }) {
  const { alignment, loss, sheet } = job.files;
  const trained = job.subjects.some((/** @type {any} */ subject) => subject.deltas.length);
  return html`${alignment && html`<${File} key=${alignment} path=${alignment} title="Prompts against photos" text="Each subject by its two alignments: up and to the right is better." name="alignment.svg" />`}
    ${trained && html`<${File} key=${loss} path=${loss} title="Loss of the trainings" text="How the loss fell while the deltas were learned." name="loss.svg" />`}
    ${sheet && html`<${File} key=${sheet} path=${sheet} title="Contact sheet" text="Every prompt with every subject." name="sheet.png" />`}
    ${!alignment && !sheet && html`<p class="muted">Plots and sheet are made when the evaluation has succeeded.</p>`}`;
}

/** @param {{path: string, title: string, text: string, name: string}} props */
function File({ path, title, text, name }) {
  const [url, setUrl] = useState(/** @type {string | null} */ (null));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  useEffect(() => {
    /** @type {string | null} */
    let made = null;
    let there = true;
    api.blob(relative(path)).then(
      (blob) => there && setUrl((made = URL.createObjectURL(blob))),
      (cause) => there && setProblem(cause),
    );
    return () => {
      there = false;
      if (made) URL.revokeObjectURL(made);
    };
  }, [path]);
  const save = () => {
    const anchor = document.createElement("a");
    anchor.href = /** @type {string} */ (url);
    anchor.download = name;
    anchor.click();
  };
  // A training of an earlier version has no losses; its plot is then missing and nothing is wrong.
  if (problem?.status === 404) return null;
  return html`<${Section} title=${title} lead=${text} aside=${url && html`<${Button} small icon="download" onClick=${save}>Download<//>`}>
    <${ProblemNotice} problem=${problem} />
    ${!url && !problem && html`<${Skeleton} rows=${1} height="16rem" />`}
    ${url && html`<div class="figure-box" tabindex="0" role="region" aria-label=${title}><img src=${url} alt=${text} /></div>`}
  <//>`;
}
