/** Copying: texts, and a request as a command line for curl. */
import { html, useState } from "./html.js";
import { relative } from "../api.js";
import { hasKey } from "../session.js";
import { Button } from "./button.js";
import { toast } from "./toast.js";

/** Puts a text into the clipboard. @param {string} text */
export async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages of a secure origin have the clipboard. Selecting a text works everywhere.
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** @param {{text: string | (() => string), label?: string, children?: any, small?: boolean, icon?: string, kind?: any, said?: string}} props */
export function CopyButton({ text, label = "Copy", children, small = true, icon = "copy", kind = "plain", said = "Copied" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await toClipboard(typeof text === "function" ? text() : text);
    setDone(true);
    toast(said);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<${Button} kind=${kind} small=${small} icon=${done ? "check" : icon} label=${children ? undefined : label} onClick=${copy}>${children}<//>`;
}

/** A text between single quotes for a shell. */
const quoted = (/** @type {string} */ text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * A request as a command line. The key is not in it, but the name of the variable that has it.
 *
 * @param {string} method @param {string} path @param {any} [body]
 */
export function curl(method, path, body) {
  const address = new URL(relative(path), document.baseURI).href.split("#")[0];
  const lines = [`curl ${method === "GET" || body !== undefined ? "" : `-X ${method} `}${quoted(address)}`];
  if (hasKey()) lines.push(`-H "authorization: Bearer $VSTAR_API_KEY"`);
  if (body !== undefined) lines.push(`-H 'content-type: application/json'`, `-d ${quoted(JSON.stringify(body))}`);
  if (body !== undefined && method !== "POST") lines[0] = `curl -X ${method} ${quoted(address)}`;
  return lines.join(" \\\n  ");
}

/** @param {{method?: string, path: string, body?: any, small?: boolean}} props */
export function CopyCurl({ method = "POST", path, body, small = true }) {
  return html`<${CopyButton} small=${small} text=${() => curl(method, path, body)} said="Copied as a curl command">Copy as curl<//>`;
}
