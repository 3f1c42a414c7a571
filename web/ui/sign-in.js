/** The dialog that asks for a key. It opens when the server wants one. */
import { html, useState } from "./html.js";
import { signIn, useSession } from "../session.js";
import { Button } from "./button.js";
import { Dialog } from "./dialog.js";
import { Field } from "./field.js";

export function SignIn() {
  const { asking, reason } = useSession();
  const [key, setKey] = useState("");
  const [shown, setShown] = useState(false);
  if (!asking) return null;
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!key.trim()) return;
    signIn(key);
    setKey("");
  };
  return html`<${Dialog} title="Sign in" closable=${false} onClose=${() => {}}>
    <form class="stack" onSubmit=${submit}>
      <p class="muted">This service asks for a key. It is kept in this page only, until it is closed or reloaded.</p>
      <${Field} label="API key or client token" error=${reason} hint="An administrator makes keys with “vstar admin-key”, or under Settings.">
        ${(/** @type {any} */ a) => html`<input ...${a} class="input input-code" type=${shown ? "text" : "password"} name="key" autocomplete="current-password" autofocus placeholder="vstar_…" value=${key} onInput=${(/** @type {any} */ event) => setKey(event.currentTarget.value)} />`}
      <//>
      <div class="row row-between">
        <label class="check"><input type="checkbox" checked=${shown} onChange=${() => setShown(!shown)} /><span>Show the key</span></label>
        <${Button} kind="primary" type="submit" disabled=${!key.trim()}>Sign in<//>
      </div>
    </form>
  <//>`;
}
