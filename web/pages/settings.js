/** Keys, client tokens, webhooks with their deliveries, and what the project uses. */
import { html } from "../ui/html.js";
import { link } from "../router.js";
import { Page, Tabs } from "../ui/page.js";
import { Skeleton } from "../ui/empty.js";
import { ProblemNotice } from "../ui/notice.js";
import { useGet } from "../ui/load.js";
import { Keys } from "./settings/keys.js";
import { ClientTokens } from "./settings/tokens.js";
import { Webhooks } from "./settings/webhooks.js";
import { Usage } from "./settings/usage.js";

const TABS = [
  { id: "keys", label: "Keys", part: Keys },
  { id: "tokens", label: "Client tokens", part: ClientTokens },
  { id: "webhooks", label: "Webhooks", part: Webhooks },
  { id: "limits", label: "Limits", part: Usage },
];

/** @param {{query: Record<string, string>}} props */
export default function Settings({ query }) {
  const me = useGet("v1/me");
  const tab = TABS.find((each) => each.id === query.tab) ?? TABS[0];
  const project = me.body?.project.name;
  return html`<${Page} title="Settings" lead=${project ? html`Of the project <b>${project}</b>.` : "Of your project."}>
    <${Tabs} label="Settings" selected=${tab.id} tabs=${TABS.map(({ id, label }) => ({ id, label, href: link("/settings", { tab: id }) }))} />
    <${ProblemNotice} problem=${me.problem} retry=${me.reload} />
    ${me.body ? html`<${tab.part} key=${tab.id} me=${me.body} query=${query} />` : !me.problem && html`<${Skeleton} rows=${3} height="3rem" />`}
  <//>`;
}
