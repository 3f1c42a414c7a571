// The page below a path of a proxy: everything it asks for stays below it.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { after, before, test } from "node:test";

import { newPage, openBrowser, settled } from "../support/browser.mjs";
import { trained } from "../support/catalog.mjs";
import { Server, freePort } from "../support/server.mjs";

const BELOW = "/tools/vstar";
let server, browser, proxy, address;
const strays = [];
before(async () => {
  [server, browser] = await Promise.all([Server.start("proxy"), openBrowser()]);
  // Passes on what is below the path, with the host that the browser asked for, as nginx's `proxy_pass …/` does.
  proxy = createServer((asked, answer) => {
    if (asked.url === BELOW) return answer.writeHead(308, { location: `${BELOW}/` }).end();
    if (!asked.url.startsWith(`${BELOW}/`)) {
      strays.push(asked.url);
      return answer.writeHead(404).end();
    }
    const options = { port: server.port, path: asked.url.slice(BELOW.length), method: asked.method, headers: asked.headers };
    const passed = request(options, (got) => {
      answer.writeHead(got.statusCode, got.headers);
      got.pipe(answer);
    });
    // A proxy answers for a server that is away; a stream that has begun, it ends.
    passed.on("error", () => (answer.headersSent ? answer.destroy() : answer.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad Gateway</h1>")));
    asked.pipe(passed);
  });
  const port = await freePort();
  await new Promise((done) => proxy.listen(port, "127.0.0.1", done));
  address = `http://127.0.0.1:${port}${BELOW}`;
});
after(() => Promise.all([browser?.close(), server?.stop(), proxy?.closeAllConnections(), proxy?.close()]));

test("behind a proxy below a path everything works", { timeout: 240_000 }, async () => {
  await trained(server, "rex", "dog", 3);
  const page = await newPage(browser);

  await page.goto(address);
  await page.locator(".concept-card img").first().waitFor();
  await settled(page);
  const cover = await page.locator(".concept-card img").first().evaluate((image) => ({ src: image.src, width: image.naturalWidth }));
  assert.ok(cover.src.startsWith(`${address}/v1/images/`) && cover.src.endsWith("?w=256"), cover.src);
  assert.ok(cover.width > 0 && cover.width <= 256, `${cover.width}`);

  await page.goto(`${address}/#/studio?prompt=${encodeURIComponent("photo of a <rex> dog")}`);
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.locator(".result-grid .picture img").first().waitFor({ timeout: 120_000 });
  await page.reload();
  await page.locator(".result-grid .picture img").first().waitFor();

  assert.deepEqual(strays.filter((path) => path !== "/favicon.ico"), []);
  assert.deepEqual(page.errors, []);
});

test("a proxy's word that the server is away is a lost connection", { timeout: 120_000 }, async () => {
  const page = await newPage(browser);
  await page.goto(`${address}/#/concepts/rex`);
  await page.getByRole("heading", { name: /rex/ }).waitFor();

  await server.kill();
  await page.getByText("Connection lost, trying again").first().waitFor({ timeout: 30_000 });
  assert.ok(await page.getByRole("heading", { name: /rex/ }).isVisible(), "the page stays");
  await server.again();

  await page.getByText("Connection lost, trying again").first().waitFor({ state: "hidden", timeout: 60_000 });
  await page.getByRole("link", { name: /^Photos/ }).click();
  await page.locator(".photo-grid li img").first().waitFor();
  assert.deepEqual(page.errors, []);
});
