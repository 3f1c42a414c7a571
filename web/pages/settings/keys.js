/** Keys: created, rotated, revoked. A secret is shown once. */
import { html, useState } from "../../ui/html.js";
import { api, idempotencyKey } from "../../api.js";
import { ago, time } from "../../format.js";
import { Badge, Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { Dialog, confirm } from "../../ui/dialog.js";
import { Empty, Skeleton } from "../../ui/empty.js";
import { CheckField, Field, FormProblem, NumberField, SelectField, TextField } from "../../ui/field.js";
import { More, usePages } from "../../ui/list.js";
import { Notice, ProblemNotice } from "../../ui/notice.js";
import { toast } from "../../ui/toast.js";
import { SecretDialog } from "./secret.js";

/** What each scope allows. @type {Record<string, string>} */
const SCOPES = {
  read: "See everything but weights",
  "concepts:write": "Make and change concepts and photos",
  "trainings:write": "Start trainings and merges, change deltas",
  "samples:write": "Draw images, start evaluations and votes",
  "weights:read": "Download the weights of deltas",
  "webhooks:write": "Manage webhooks",
  admin: "Manage keys and projects, and all of the above",
};

/** @param {{me: any}} props */
export function Keys({ me }) {
  return me.key
    ? html`<${KeyList} me=${me} />`
    : html`<${Section} title="Keys">
        <${Notice} title="This service asks for no keys">
          <p>Whoever reaches it may do everything; it listens for this machine only. Start it with <code>--auth keys</code> to give each program a key of its own.</p>
        <//>
      <//>`;
}

/** @param {{me: any}} props */
function KeyList({ me }) {
  const list = usePages("v1/api-keys");
  const [making, setMaking] = useState(false);
  const [secret, setSecret] = useState(/** @type {any} */ (null));
  const [rotating, setRotating] = useState(/** @type {any} */ (null));
  const made = (/** @type {any} */ key, /** @type {any} */ note) => {
    setMaking(false);
    setRotating(null);
    if (key.secret) setSecret({ key, note });
    list.reload();
  };
  const mayManage = me.scopes.includes("admin");
  return html`<${Section} title="Keys" aside=${mayManage && html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New key<//>`}>
    ${!mayManage
      ? html`<${Notice} kind="warn"><p>Your key <b>${me.key?.name}</b> has no scope <code>admin</code>, so it cannot see or manage keys.</p><//>`
      : html`<${ProblemNotice} problem=${list.items.length ? null : list.problem} retry=${list.reload} />
          ${list.first && html`<${Skeleton} rows=${3} height="3rem" />`}
          ${!list.first && !list.items.length && !list.problem && html`<${Empty} icon="key" title="No keys yet"><p>A program that uses the service gets a key of its own, with the scopes that it needs.</p><//>`}
          ${list.items.length > 0 &&
          html`<ul class="settings-list">
            ${list.items.map((key) => html`<${KeyRow} key=${key.id} apiKey=${key} own=${key.id === me.key?.id} onRotate=${() => setRotating(key)} reload=${list.reload} />`)}
          </ul>`}
          <${More} list=${list} />`}
    ${making && html`<${NewKey} onClose=${() => setMaking(false)} onMade=${(/** @type {any} */ key) => made(key, null)} />`}
    ${rotating && html`<${Rotate} apiKey=${rotating} onClose=${() => setRotating(null)} onMade=${made} />`}
    ${secret && html`<${SecretDialog} title=${`The key “${secret.key.name}”`} secret=${secret.key.secret} note=${secret.note ?? "Programs send it as Authorization: Bearer."} onClose=${() => setSecret(null)} />`}
  <//>`;
}

/** @param {{apiKey: any, own: boolean, onRotate: () => void, reload: () => any}} props */
function KeyRow({ apiKey: key, own, onRotate, reload }) {
  const remove = () =>
    confirm({
      title: `Revoke the key “${key.name}”?`,
      text: html`<p>Programs that use it are refused from now on. ${own && html`<b>This page uses it: you would have to sign in with another one.</b>`}</p>`,
      yes: "Revoke it",
      danger: true,
      action: async () => {
        await api.delete(`v1/api-keys/${key.id}`);
        toast("Key revoked");
        await reload();
        return true;
      },
    });
  const expired = key.expires_at && Date.parse(key.expires_at) < Date.now();
  return html`<li class="settings-row">
    <div class="settings-main">
      <p class="settings-name"><b>${key.name}</b> ${own && html`<${Badge} kind="active">This page<//>`} ${expired && html`<${Badge} kind="fail">Expired<//>`}</p>
      <p class="muted small"><code>${key.prefix}…</code> · ${key.last_used_at ? `used ${ago(key.last_used_at)}` : "never used"} · created ${ago(key.created_at)}${key.expires_at ? ` · valid until ${time(key.expires_at)}` : ""}</p>
      ${key.previous_secret_until && Date.parse(key.previous_secret_until) > Date.now() && html`<p class="small settings-warn">The old secret is valid until ${time(key.previous_secret_until)}.</p>`}
      <p class="settings-scopes">${key.scopes.map((/** @type {string} */ scope) => html`<${Badge} key=${scope} title=${SCOPES[scope]}>${scope}<//>`)}</p>
    </div>
    <div class="row">
      <${Button} small icon="refresh" onClick=${onRotate}>Rotate<//>
      <${Button} small kind="danger" icon="trash" label=${`Revoke ${key.name}`} onClick=${remove} />
    </div>
  </li>`;
}

/** @param {{onClose: () => void, onMade: (key: any) => void}} props */
function NewKey({ onClose, onMade }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState(["read", "concepts:write", "trainings:write", "samples:write"]);
  const [days, setDays] = useState("");
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [attempt] = useState(idempotencyKey);
  const toggle = (/** @type {string} */ scope, /** @type {boolean} */ on) => setScopes((/** @type {string[]} */ former) => (on ? [...former, scope] : former.filter((each) => each !== scope)));
  const make = async () => {
    setProblem(null);
    const expires = days ? new Date(Date.now() + Number(days) * 86_400_000).toISOString() : undefined;
    try {
      onMade((await api.post("v1/api-keys", { name: name.trim(), scopes, expires_at: expires }, { key: problem ? undefined : attempt })).body);
    } catch (cause) {
      setProblem(cause);
    }
  };
  const shown = ["/name", "/scopes", "/expires_at"];
  return html`<${Dialog} title="New key" onClose=${onClose} actions=${html`<${Button} onClick=${onClose}>Cancel<//><${Button} kind="primary" onClick=${make}>Create the key<//>`}>
    <${FormProblem} problem=${problem} shown=${shown} />
    <${TextField} label="Name" hint="Who has the key, and for what." pointer="/name" problem=${problem} value=${name} onValue=${setName} placeholder="web frontend" autofocus />
    <${Field} label="Scopes" pointer="/scopes" problem=${problem}>
      ${(/** @type {any} */ a) => html`<div ...${a} role="group" class="stack-small">
        ${Object.entries(SCOPES).map(([scope, text]) => html`<${CheckField} key=${scope} label=${html`<code>${scope}</code>`} hint=${text} checked=${scopes.includes(scope)} onValue=${(/** @type {boolean} */ on) => toggle(scope, on)} />`)}
      </div>`}
    <//>
    <${SelectField}
      label="Valid for"
      pointer="/expires_at"
      problem=${problem}
      value=${days}
      onValue=${setDays}
      options=${[
        { value: "", label: "Until it is revoked" },
        { value: "7", label: "A week" },
        { value: "30", label: "30 days" },
        { value: "365", label: "A year" },
      ]}
    />
  <//>`;
}

/** @param {{apiKey: any, onClose: () => void, onMade: (key: any, note: any) => void}} props */
function Rotate({ apiKey, onClose, onMade }) {
  const [hours, setHours] = useState(/** @type {number | null} */ (24));
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const rotate = async () => {
    setProblem(null);
    try {
      const { body } = await api.post(`v1/api-keys/${apiKey.id}/rotate`, { overlap_seconds: Math.round((hours ?? 24) * 3600) });
      onMade(body, body.previous_secret_until ? `The old secret is valid until ${time(body.previous_secret_until)}.` : "The old secret is no longer valid.");
    } catch (cause) {
      setProblem(cause);
    }
  };
  return html`<${Dialog} title=${`Rotate “${apiKey.name}”`} onClose=${onClose} actions=${html`<${Button} onClick=${onClose}>Cancel<//><${Button} kind="primary" onClick=${rotate}>Rotate<//>`}>
    <${FormProblem} problem=${problem} shown=${["/overlap_seconds"]} />
    <p>The key gets a new secret. Programs can be changed over while the old one is still valid.</p>
    <${NumberField} label="The old secret stays valid for" unit="hours" min=${0} max=${168} pointer="/overlap_seconds" problem=${problem} value=${hours} onValue=${setHours} hint="0 to 168 hours. 0 revokes it at once." />
  <//>`;
}
