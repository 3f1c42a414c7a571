// The vendored libraries are the published files, byte by byte.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const folder = new URL("../../web/vendor/", import.meta.url);
const libraries = JSON.parse(readFileSync(new URL("versions.json", folder), "utf8"));

test("each vendored file has the digest that is pinned", () => {
  for (const [name, { version, licence, npm, files }] of Object.entries(libraries)) {
    assert.match(version, /^\d+\.\d+\.\d+$/, name);
    assert.ok(licence && npm.endsWith(`@${version}`), name);
    for (const [path, digest] of Object.entries(files)) {
      const bytes = readFileSync(new URL(path, folder));
      assert.equal(createHash("sha256").update(bytes).digest("hex"), digest, path);
    }
  }
});

test("nothing else is vendored", () => {
  const pinned = new Set(Object.values(libraries).flatMap(({ files }) => Object.keys(files)));
  const there = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = there.map((entry) => `${entry.parentPath ?? entry.path}/${entry.name}`.slice(folder.pathname.length).replace(/^\/+/, ""));
  // Licences, and types that are ours, are loaded by nobody.
  for (const path of paths) assert.ok(path === "versions.json" || /licen[cs]e|\.d\.ts$/i.test(path) || pinned.has(path), `${path} is not in versions.json`);
});

test("no module loads anything from outside", () => {
  const web = new URL("../../web/", import.meta.url);
  const files = readdirSync(web, { recursive: true }).filter((path) => /\.(js|css|html)$/.test(path) && !path.startsWith("vendor"));
  assert.ok(files.length > 30);
  for (const path of files) {
    const text = readFileSync(new URL(path, web), "utf8");
    assert.doesNotMatch(text, /(?:from|import\()\s*["'`](?:https?:|\/\/)|url\(["']?(?:https?:)?\/\/|@import\s+["'](?:https?:)?\/\//, path);
  }
});
