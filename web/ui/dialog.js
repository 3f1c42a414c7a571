/** Dialogs: the browser's own, which keep the focus inside and close with Escape. */
import { html, classes, nextId, render, useEffect, useRef, useState } from "./html.js";
import { Button } from "./button.js";
import { ProblemNotice } from "./notice.js";

/**
 * @param {{title: any, onClose: () => void, wide?: boolean, full?: boolean, actions?: any, children?: any, class?: string,
 *   closable?: boolean}} props
 */
export function Dialog({ title, onClose, wide, full, actions, children, class: name, closable = true }) {
  const ref = useRef(/** @type {any} */ (null));
  const [id] = useState(() => nextId("dialog"));
  // Escape, pressed a second time, closes a dialog without asking the page, which may want to keep it.
  const closed = () => {
    if (!ref.current?.isConnected || ref.current.open) return;
    ref.current.showModal();
    if (closable) onClose();
  };
  useEffect(() => {
    const dialog = ref.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.open && dialog.close();
  }, []);
  return html`<dialog
    ref=${ref}
    class=${classes("dialog", wide && "dialog-wide", full && "dialog-full", name)}
    aria-labelledby=${id}
    onCancel=${(/** @type {Event} */ event) => {
      event.preventDefault();
      if (closable) onClose();
    }}
    onClose=${closed}
    onClick=${(/** @type {any} */ event) => closable && event.target === ref.current && onClose()}
  >
    <div class="dialog-inside">
      <header class="dialog-head">
        <h2 id=${id}>${title}</h2>
        ${closable && html`<${Button} kind="quiet" icon="close" label="Close" onClick=${onClose} />`}
      </header>
      <div class="dialog-body">${children}</div>
      ${actions && html`<footer class="dialog-actions">${actions}</footer>`}
    </div>
  </dialog>`;
}

/**
 * Asks before something that cannot be undone.
 *
 * `action` is done while the dialog is open; its problem is shown in it. Fulfilled with the action's result, or undefined if the
 * answer was no.
 *
 * @param {{title: string, text?: any, yes: string, no?: string, danger?: boolean, action?: () => Promise<any>}} question
 * @returns {Promise<any>}
 */
export function confirm({ title, text, yes, no = "Cancel", danger = false, action = async () => true }) {
  const place = document.createElement("div");
  document.body.append(place);
  const before = /** @type {HTMLElement | null} */ (document.activeElement);
  return new Promise((resolve) => {
    const close = (/** @type {any} */ result) => {
      render(null, place);
      place.remove();
      before?.focus?.();
      resolve(result);
    };
    function Question() {
      const [problem, setProblem] = useState(/** @type {any} */ (null));
      const [acting, setActing] = useState(false);
      const agree = async () => {
        setProblem(null);
        setActing(true);
        try {
          close(await action());
        } catch (cause) {
          setProblem(cause);
          setActing(false);
        }
      };
      // What has begun is not answered with "no": the dialog stays until it is done.
      return html`<${Dialog}
        title=${title}
        closable=${!acting}
        onClose=${() => close(undefined)}
        actions=${html`<${Button} disabled=${acting} onClick=${() => close(undefined)}>${no}<//>
          <${Button} kind=${danger ? "danger" : "primary"} onClick=${agree}>${yes}<//>`}
      >
        ${text}
        <${ProblemNotice} problem=${problem} />
      <//>`;
    }
    render(html`<${Question} />`, place);
  });
}
