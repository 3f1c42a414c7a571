// The page names the modules of its first view, so that a browser asks for all of them at once and not one after the other.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const web = new URL("../../web/", import.meta.url);

/** The modules that a module loads before it runs, itself included. @param {string} path @param {Set<string>} [found] */
function closure(path, found = new Set()) {
  if (found.has(path)) return found;
  found.add(path);
  const text = readFileSync(new URL(path, web), "utf8").replace(/\/\*[^]*?\*\//g, "");
  for (const [, from] of text.matchAll(/^\s*(?:import|export)\s[^"';]*?from\s+"(\.[^"]+)";|^import\s+"(\.[^"]+)";/gm)) {
    closure(new URL(from, new URL(path, web)).pathname.slice(web.pathname.length), found);
  }
  return found;
}

test("the page preloads the modules of the gallery", () => {
  const page = readFileSync(new URL("index.html", web), "utf8");
  const named = [...page.matchAll(/<link rel="modulepreload" href="assets\/([^"]+)"/g)].map(([, path]) => path).sort();
  const first = closure("main.js");
  closure("pages/concepts.js", first);
  first.delete("main.js"); // the script itself

  assert.ok(first.size > 10);
  assert.deepEqual(named, [...first].sort());
});
