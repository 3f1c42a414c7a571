/** The form of a new preference study. */
import { html, useState } from "../../ui/html.js";
import { api, idempotencyKey } from "../../api.js";
import { ago } from "../../format.js";
import { Button } from "../../ui/button.js";
import { Dialog } from "../../ui/dialog.js";
import { FormProblem, NumberField, SelectField } from "../../ui/field.js";

/** @param {{evaluations: any[], onClose: () => void, onMade: (study: any) => void}} props */
export function NewStudy({ evaluations, onClose, onMade }) {
  const sides = evaluations.flatMap((job) => job.subjects.map((/** @type {any} */ subject) => ({ value: JSON.stringify({ evaluation: job.id, subject: subject.name }), label: `${subject.name} · evaluation of ${ago(job.created_at)}` })));
  const [first, setFirst] = useState(sides[0]?.value ?? "");
  const [second, setSecond] = useState(sides[1]?.value ?? "");
  const [pairs, setPairs] = useState(/** @type {number | null} */ (50));
  const [links, setLinks] = useState(/** @type {number | null} */ (3));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [key, setKey] = useState(idempotencyKey);
  const start = async () => {
    setProblem(null);
    try {
      const body = { first: JSON.parse(first), second: JSON.parse(second), pairs: pairs ?? undefined, links: links ?? undefined };
      onMade((await api.post("v1/preference-studies", body, { key })).body);
    } catch (cause) {
      setProblem(cause);
      setKey(idempotencyKey());
    }
  };
  return html`<${Dialog} title="New vote" onClose=${onClose} actions=${html`<${Button} onClick=${onClose}>Cancel<//><${Button} kind="primary" disabled=${!first || !second} onClick=${start}>Create the links<//>`}>
    <${FormProblem} problem=${problem} shown=${["/first", "/second", "/pairs", "/links"]} />
    <p>People see two images of one prompt, side by side and in a random order. They say which fits the prompt better, and which looks more like the photos.</p>
    <${SelectField} label="First" pointer="/first" problem=${problem} value=${first} onValue=${setFirst} options=${sides} />
    <${SelectField} label="Second" pointer="/second" problem=${problem} value=${second} onValue=${setSecond} options=${sides} />
    <div class="fields">
      <${NumberField} label="Pairs" integer min=${1} max=${1000} pointer="/pairs" problem=${problem} value=${pairs} onValue=${setPairs} hint="Fewer if they have fewer in common." />
      <${NumberField} label="People" integer min=${1} max=${1000} pointer="/links" problem=${problem} value=${links} onValue=${setLinks} hint="Each gets a link." />
    </div>
  <//>`;
}
