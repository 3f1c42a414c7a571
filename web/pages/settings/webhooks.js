/** Webhooks: endpoints, their secrets, and what was delivered to them. */
import { html, useEffect, useState } from "../../ui/html.js";
import { api, idempotencyKey } from "../../api.js";
import { link, setQuery } from "../../router.js";
import { ago, plural, shortId, time } from "../../format.js";
import { Icon } from "../../ui/icon.js";
import { Badge, Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Dialog, confirm } from "../../ui/dialog.js";
import { Empty, Skeleton } from "../../ui/empty.js";
import { CheckField, Field, FormProblem, TextField } from "../../ui/field.js";
import { More, usePages } from "../../ui/list.js";
import { Notice, ProblemNotice } from "../../ui/notice.js";
import { toast, toastProblem } from "../../ui/toast.js";
import { every, useGet } from "../../ui/load.js";
import { SecretDialog } from "./secret.js";

/** Types of events by what they are about. @type {Record<string, string[]>} */
const EVENTS = {
  Trainings: ["training.started", "training.succeeded", "training.failed", "training.canceled"],
  Images: ["sample.started", "sample.succeeded", "sample.failed", "sample.canceled"],
  Merges: ["merge.started", "merge.succeeded", "merge.failed", "merge.canceled"],
  Evaluations: ["evaluation.started", "evaluation.succeeded", "evaluation.failed", "evaluation.canceled"],
  Compressions: ["compression.started", "compression.succeeded", "compression.failed", "compression.canceled"],
  Concepts: ["concept.promoted", "concept.deleted"],
};

/** @param {{query: Record<string, string>}} props */
export function Webhooks({ query }) {
  return query.endpoint ? html`<${Endpoint} key=${query.endpoint} id=${query.endpoint} status=${query.status ?? ""} />` : html`<${Endpoints} />`;
}

function Endpoints() {
  const list = usePages("v1/webhook-endpoints");
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState(/** @type {any} */ (null));
  const create = html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New webhook<//>`;
  return html`<${Section} title="Webhooks" lead="Your programs are told when something has happened, and need not ask." aside=${list.items.length > 0 && create}>
    <${ProblemNotice} problem=${list.items.length ? null : list.problem} retry=${list.reload} />
    ${list.first && html`<${Skeleton} rows=${2} height="4rem" />`}
    ${!list.first && !list.items.length && !list.problem && html`<${Empty} icon="external" title="No webhooks yet" action=${create}><p>An address of yours gets a signed request for each event. Each delivery is listed here with its answer, and can be sent again.</p><//>`}
    ${list.items.length > 0 &&
    html`<ul class="settings-list">
      ${list.items.map(
        (endpoint) => html`<li key=${endpoint.id} class="settings-row">
          <div class="settings-main">
            <p class="settings-name"><a href=${link("/settings", { tab: "webhooks", endpoint: endpoint.id })}><b>${endpoint.url}</b></a></p>
            <p class="muted small">${endpoint.description ? `${endpoint.description} · ` : ""}${endpoint.event_types ? plural(endpoint.event_types.length, "type") + " of events" : "all events"}</p>
          </div>
          <${EndpointState} endpoint=${endpoint} />
        </li>`,
      )}
    </ul>`}
    <${More} list=${list} />
    ${making && html`<${EndpointForm} onClose=${() => setMaking(false)} onDone=${(/** @type {any} */ endpoint) => (setMaking(false), setMade(endpoint), list.reload())} />`}
    ${made?.secret && html`<${SecretDialog} title="The secret of this webhook" secret=${made.secret} note="Verify the header webhook-signature of each request with it." onClose=${() => (setMade(null), setQuery({ endpoint: made.id }))} />`}
  <//>`;
}

/** @param {{endpoint: any}} props */
function EndpointState({ endpoint }) {
  if (endpoint.disabled_reason) return html`<${Badge} kind="fail">Switched off by the service<//>`;
  if (!endpoint.enabled) return html`<${Badge}>Off<//>`;
  if (endpoint.failing_since) return html`<${Badge} kind="warn">Failing since ${ago(endpoint.failing_since)}<//>`;
  return html`<${Badge} kind="ok">On<//>`;
}

/** @param {{id: string, status: string}} props */
function Endpoint({ id, status }) {
  const path = `v1/webhook-endpoints/${id}`;
  const { body: endpoint, problem, reload, set } = useGet(path, { every: 10 });
  const [editing, setEditing] = useState(false);
  const [secret, setSecret] = useState(/** @type {any} */ (null));
  const deliveries = usePages(`${path}/deliveries${status ? `?status=${status}` : ""}`);
  const [opened, setOpened] = useState(/** @type {string | null} */ (null));
  const pending = deliveries.items.some((each) => each.status === "pending");
  useEffect(() => {
    if (pending) return every(2000, deliveries.refresh);
  }, [pending, deliveries.refresh]);

  const test = async () => {
    try {
      const { body } = await api.post(`${path}/test`);
      toast("A test is on its way", { kind: "info" });
      setOpened(body.id);
      await deliveries.refresh();
    } catch (cause) {
      toastProblem(cause);
    }
  };
  const turn = async () => {
    try {
      set((await api.patch(path, { enabled: !endpoint.enabled })).body);
    } catch (cause) {
      toastProblem(cause);
    }
  };
  const rotate = () =>
    confirm({
      title: "Create a new secret?",
      text: html`<p>Deliveries are signed with both secrets for a day, so that your receiver can be changed over.</p>`,
      yes: "Create it",
      action: async () => {
        const { body } = await api.post(`${path}/rotate-secret`);
        setSecret(body.secret);
        await reload();
        return true;
      },
    });
  const remove = async () => {
    const gone = await confirm({
      title: "Delete this webhook?",
      text: html`<p>Nothing more is sent to <b>${endpoint.url}</b>, and its deliveries are forgotten.</p>`,
      yes: "Delete it",
      danger: true,
      action: async () => (await api.delete(path), true),
    });
    if (gone) {
      toast("Webhook deleted");
      location.hash = link("/settings", { tab: "webhooks" });
    }
  };
  const resend = async (/** @type {any} */ delivery) => {
    try {
      await api.post(`${path}/deliveries/${delivery.id}/redeliver`);
      toast("Sent again", { kind: "info" });
      await deliveries.reload();
    } catch (cause) {
      toastProblem(cause);
    }
  };

  const back = html`<a class="page-back" href=${link("/settings", { tab: "webhooks" })}><${Icon} name="back" size=${16} />All webhooks</a>`;
  if (!endpoint) return html`${back}<${ProblemNotice} problem=${problem} retry=${reload} />${!problem && html`<${Skeleton} rows=${3} height="3rem" />`}`;
  return html`${back}
    <${Section}
      title=${endpoint.url}
      lead=${endpoint.description}
      aside=${html`<${EndpointState} endpoint=${endpoint} />`}
    >
      ${endpoint.disabled_reason && html`<${Notice} kind="fail" title="The service has switched it off"><p>${endpoint.disabled_reason}. Switch it on again when your receiver answers.</p><//>`}
      <p class="settings-scopes">${endpoint.event_types ? endpoint.event_types.map((/** @type {string} */ type) => html`<${Badge} key=${type}>${type}<//>`) : html`<${Badge}>all events<//>`}</p>
      ${endpoint.previous_secret_until && Date.parse(endpoint.previous_secret_until) > Date.now() && html`<p class="small settings-warn">Deliveries are also signed with the old secret until ${time(endpoint.previous_secret_until)}.</p>`}
      <div class="row">
        <${Button} icon="play" onClick=${test}>Send a test<//>
        <${Button} icon="edit" onClick=${() => setEditing(true)}>Change<//>
        <${Button} icon="refresh" onClick=${rotate}>New secret<//>
        <${Button} onClick=${turn}>${endpoint.enabled ? "Switch off" : "Switch on"}<//>
        <${Button} kind="danger" icon="trash" onClick=${remove}>Delete<//>
      </div>
    <//>
    <${Section}
      title="Deliveries"
      aside=${html`<div class="segments" role="group" aria-label="Status">
        ${["", "pending", "succeeded", "failed"].map((each) => html`<button type="button" key=${each} aria-pressed=${status === each ? "true" : "false"} onClick=${() => setQuery({ status: each })}>${each ? each[0].toUpperCase() + each.slice(1) : "All"}</button>`)}
      </div>`}
    >
      ${deliveries.first && html`<${Skeleton} rows=${3} height="3rem" />`}
      ${!deliveries.first && !deliveries.items.length && html`<p class="muted">${status ? "None with this status." : "Nothing was sent yet. A test shows whether your receiver answers."}</p>`}
      ${deliveries.items.length > 0 &&
      html`<ul class="settings-list">
        ${deliveries.items.map((delivery) => html`<${Delivery} key=${delivery.id} delivery=${delivery} open=${opened === delivery.id} onToggle=${() => setOpened(opened === delivery.id ? null : delivery.id)} onResend=${() => resend(delivery)} />`)}
      </ul>`}
      <${More} list=${deliveries} />
    <//>
    ${editing && html`<${EndpointForm} endpoint=${endpoint} onClose=${() => setEditing(false)} onDone=${(/** @type {any} */ changed) => (setEditing(false), set(changed))} />`}
    ${secret && html`<${SecretDialog} title="The new secret" secret=${secret} note="Verify the header webhook-signature of each request with it." onClose=${() => setSecret(null)} />`}`;
}

/** @type {Record<string, [string, any]>} */
const DELIVERY = { pending: ["On its way", "active"], succeeded: ["Delivered", "ok"], failed: ["Given up", "fail"], canceled: ["Not sent", "neutral"] };

/** @param {{delivery: any, open: boolean, onToggle: () => void, onResend: () => any}} props */
function Delivery({ delivery, open, onToggle, onResend }) {
  const [text, kind] = DELIVERY[delivery.status] ?? [delivery.status, "neutral"];
  const last = delivery.attempts.at(-1);
  const answered = last?.status_code ? `answered ${last.status_code}` : last?.error ? "no answer" : "";
  return html`<li class="delivery">
    <div class="settings-row">
      <button type="button" class="delivery-open" aria-expanded=${open ? "true" : "false"} onClick=${onToggle}>
        <span class="settings-name"><b>${delivery.event_type}</b> <span class="muted small">${shortId(delivery.object_id)}</span></span>
        <span class="muted small">${ago(delivery.created_at)}${answered ? ` · ${answered}` : ""}${delivery.attempts.length > 1 ? ` · ${delivery.attempts.length} attempts` : ""}${delivery.next_attempt_at && delivery.attempts.length ? ` · next try ${time(delivery.next_attempt_at)}` : ""}</span>
      </button>
      <${Badge} kind=${kind}>${text}<//>
    </div>
    ${open &&
    html`<div class="delivery-more">
      ${delivery.reason && html`<p>${delivery.reason}</p>`}
      ${delivery.attempts.length === 0 && html`<p class="muted">No attempt has ended yet.</p>`}
      ${delivery.attempts.map(
        (/** @type {any} */ attempt) => html`<div key=${attempt.attempt} class="delivery-attempt">
          <p><b>Attempt ${attempt.attempt}</b> <span class="muted">${time(attempt.started_at)} · ${attempt.duration_ms} ms · ${attempt.status_code ? `status ${attempt.status_code}` : "no answer"}</span></p>
          ${attempt.error && html`<p class="delivery-error">${attempt.error}</p>`}
          ${attempt.answer && html`<pre class="code-block" tabindex="0" aria-label="The receiver's answer">${attempt.answer}</pre>`}
        </div>`,
      )}
      <div class="row">
        <${Button} small icon="refresh" onClick=${onResend}>Send it again<//>
        <span class="muted small">Its id stays <code>${delivery.id}</code>, so a receiver can tell that it is the same.</span>
      </div>
    </div>`}
  </li>`;
}

/** Makes an endpoint, or changes one. @param {{endpoint?: any, onClose: () => void, onDone: (endpoint: any) => void}} props */
function EndpointForm({ endpoint, onClose, onDone }) {
  const [url, setUrl] = useState(endpoint?.url ?? "");
  const [description, setDescription] = useState(endpoint?.description ?? "");
  const [all, setAll] = useState(!endpoint?.event_types);
  const [types, setTypes] = useState(/** @type {string[]} */ (endpoint?.event_types ?? []));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [key, setKey] = useState(idempotencyKey);
  const toggle = (/** @type {string} */ type, /** @type {boolean} */ on) => setTypes((/** @type {string[]} */ former) => (on ? [...former, type] : former.filter((each) => each !== type)));
  const save = async () => {
    setProblem(null);
    const said = { url: url.trim(), description: description.trim() || null, event_types: all ? null : types };
    try {
      const { body } = endpoint
        ? await api.patch(`v1/webhook-endpoints/${endpoint.id}`, said)
        : await api.post("v1/webhook-endpoints", { ...said, event_types: said.event_types ?? undefined }, { key });
      onDone(body);
    } catch (cause) {
      setProblem(cause);
      setKey(idempotencyKey());
    }
  };
  const shown = ["/url", "/description", "/event_types"];
  return html`<${Dialog}
    title=${endpoint ? "Change the webhook" : "New webhook"}
    onClose=${onClose}
    actions=${html`<${Button} onClick=${onClose}>Cancel<//><${Button} kind="primary" onClick=${save}>${endpoint ? "Save" : "Create"}<//>`}
  >
    <${FormProblem} problem=${problem} shown=${shown} />
    <${TextField} label="Address" type="url" hint="https, on a public address." pointer="/url" problem=${problem} value=${url} onValue=${setUrl} placeholder="https://shop.example/vstar-events" />
    <${TextField} label="Description" optional pointer="/description" problem=${problem} value=${description} onValue=${setDescription} />
    <${CheckField} label="All events" hint="Also those of later versions." checked=${all} onValue=${setAll} />
    ${!all &&
    html`<${Field} label="Events" pointer="/event_types" problem=${problem}>
      ${(/** @type {any} */ a) => html`<div ...${a} role="group" class="event-types">
        ${Object.entries(EVENTS).map(
          ([noun, names]) => html`<div key=${noun}>
            <p class="small muted">${noun}</p>
            ${names.map((type) => html`<${CheckField} key=${type} label=${type.split(".")[1]} checked=${types.includes(type)} onValue=${(/** @type {boolean} */ on) => toggle(type, on)} />`)}
          </div>`,
        )}
      </div>`}
    <//>`}
  <//>`;
}
