/** Client tokens: short-lived, for one concept or one job, to hand to a page. */
import { html, useState } from "../../ui/html.js";
import { api } from "../../api.js";
import { time } from "../../format.js";
import { Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { FormProblem, NumberField, SelectField, TextField } from "../../ui/field.js";
import { Notice } from "../../ui/notice.js";
import { useService } from "../studio/concepts.js";
import { SecretDialog } from "./secret.js";

/** @param {{me: any}} props */
export function ClientTokens({ me }) {
  if (me.key) return html`<${TokenForm} />`;
  return html`<${Section} title="Client tokens">
    <${Notice} title="This service asks for no keys"><p>So a page of yours needs no token: it may do everything already. Start the service with <code>--auth keys</code> to give pages tokens for one concept or one job.</p><//>
  <//>`;
}

function TokenForm() {
  const [isLooking, setLooking] = useState(false);
  const { concepts } = useService(isLooking);
  const [kind, setKind] = useState("concept");
  const [concept, setConcept] = useState("");
  const [job, setJob] = useState("");
  const [origin, setOrigin] = useState("");
  const [seconds, setSeconds] = useState(/** @type {number | null} */ (300));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [made, setMade] = useState(/** @type {any} */ (null));
  const make = async () => {
    setProblem(null);
    const what = kind === "concept" ? { concept: concept.trim() } : { job: job.trim() };
    try {
      const { body } = await api.post("v1/client-tokens", { ...what, expires_in_seconds: seconds ?? undefined, origin: origin.trim() || undefined });
      setMade(body);
    } catch (cause) {
      setProblem(cause);
    }
  };
  const shown = ["/concept", "/job", "/origin", "/expires_in_seconds"];
  return html`<${Section}
    title="Client tokens"
    lead="A page of yours gets a token instead of a key: it is valid for one concept or one job, and for minutes. It reads that one thing; for a concept it can also add photos."
  >
    <form class="card settings-form" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${FormProblem} problem=${problem} shown=${shown} />
      <div class="fields">
        <${SelectField} label="Valid for" value=${kind} onValue=${setKind} options=${[{ value: "concept", label: "One concept" }, { value: "job", label: "One job" }]} />
        ${kind === "concept"
          ? html`<${TextField} label="Concept" pointer="/concept" problem=${problem} value=${concept} onValue=${setConcept} onFocus=${() => setLooking(true)} list="token-concepts" placeholder=${concepts[0]?.handle ?? "rex"} />
              <datalist id="token-concepts">${concepts.map(({ id, handle }) => html`<option key=${id} value=${handle} />`)}</datalist>`
          : html`<${TextField} label="Id of the job" pointer="/job" problem=${problem} value=${job} onValue=${setJob} placeholder="trn_…" />`}
        <${NumberField} label="Seconds" integer min=${1} max=${900} pointer="/expires_in_seconds" problem=${problem} value=${seconds} onValue=${setSeconds} hint="1 to 900." />
        <${TextField} label="Origin of the page" optional pointer="/origin" problem=${problem} value=${origin} onValue=${setOrigin} placeholder="https://shop.example" hint="Other pages cannot use it then." />
      </div>
      <div class="row"><${Button} kind="primary" icon="key" type="submit" disabled=${!(kind === "concept" ? concept : job).trim()} onClick=${make}>Create a token<//></div>
    </form>
    ${made && html`<${SecretDialog} title="A client token" secret=${made.token} note=${html`Valid for <code>${made.resource}</code> until ${time(made.expires_at)}.`} onClose=${() => setMade(null)} />`}
  <//>`;
}
