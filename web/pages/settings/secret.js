/** A secret that the service tells once. */
import { html } from "../../ui/html.js";
import { Button } from "../../ui/button.js";
import { CopyButton } from "../../ui/copy.js";
import { Dialog } from "../../ui/dialog.js";

/** @param {{title: string, secret: string, note?: any, onClose: () => void}} props */
export function SecretDialog({ title, secret, note, onClose }) {
  return html`<${Dialog}
    title=${title}
    onClose=${onClose}
    closable=${false}
    actions=${html`<${Button} kind="primary" onClick=${onClose}>I have saved it<//>`}
  >
    <p>This is shown once. The service keeps only what it needs to recognise it, so it cannot be shown again.</p>
    <div class="secret">
      <code>${secret}</code>
      <${CopyButton} text=${secret} label="Copy the secret" />
    </div>
    ${note && html`<p class="muted small">${note}</p>`}
  <//>`;
}
