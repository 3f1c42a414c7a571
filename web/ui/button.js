/** Buttons and links that look like them. */
import { html, classes, useEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";

/**
 * A button. While the promise of `onClick` is open, it is busy and cannot be pressed again.
 *
 * @param {{kind?: "primary" | "plain" | "quiet" | "danger", icon?: string, label?: string, href?: string, small?: boolean,
 *   busy?: boolean, disabled?: boolean, type?: string, class?: string, onClick?: (event: Event) => any, children?: any,
 *   [name: string]: any}} props `label` names a button that has an icon only.
 */
export function Button({ kind = "plain", icon, label, href, small, busy, disabled, type = "button", onClick, children, ...rest }) {
  const [working, setWorking] = useState(false);
  const there = useRef(true);
  useEffect(() => {
    there.current = true;
    return () => void (there.current = false);
  }, []);
  const waiting = busy || working;
  const hasText = children !== undefined && children !== null && children !== false;
  const name = classes("button", `button-${kind}`, small && "button-small", !hasText && "button-icon", rest.class);
  const inside = html`${icon && html`<${Icon} name=${icon} size=${small ? 16 : 18} />`}${hasText && html`<span>${children}</span>`}`;
  if (href) return html`<a ...${rest} class=${name} href=${href} aria-label=${label} title=${label}>${inside}</a>`;
  const pressed = async (/** @type {Event} */ event) => {
    const result = onClick?.(event);
    if (!(result instanceof Promise)) return;
    setWorking(true);
    try {
      await result;
    } finally {
      if (there.current) setWorking(false);
    }
  };
  return html`<button
    ...${rest}
    type=${type}
    class=${classes(name, waiting && "is-busy")}
    aria-label=${label}
    title=${label}
    aria-busy=${waiting ? "true" : undefined}
    disabled=${disabled || waiting}
    onClick=${pressed}
  >
    ${inside}
  </button>`;
}
