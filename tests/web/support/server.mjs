// A service of the test's own, on the tiny model. It can be killed and started again, with the same data and address.

import { spawn } from "node:child_process";
import { createWriteStream, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { root } from "./tools.mjs";

/** @returns {Promise<number>} */
export const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
      server.close(() => done(port));
    });
  });

export class Server {
  /** @param {string} name of its data folder @param {string[]} [options] of `vstar serve` */
  static async start(name, options = []) {
    const server = new Server();
    server.data = `${root}target/web/data-${name}`;
    rmSync(server.data, { recursive: true, force: true });
    rmSync(`${server.data}.log`, { force: true });
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}/`;
    server.options = options;
    await server.again();
    return server;
  }

  /** Starts the process, and waits until it is ready. */
  async again() {
    const log = createWriteStream(`${this.data}.log`, { flags: "a" });
    await new Promise((done) => log.once("open", done));
    const program = process.env.VSTAR_PROGRAM ?? `${root}target/release/vstar`;
    const all = ["serve", "--data-dir", this.data, "--listen", `127.0.0.1:${this.port}`, "--drain-grace", "0", ...this.options];
    this.process = spawn(program, all, { cwd: root, stdio: ["ignore", log, log], env: { ...process.env, VSTAR_ALLOW_PRIVATE_WEBHOOKS: "true" } });
    for (let tries = 0; tries < 600; tries++) {
      const answer = await fetch(`${this.url}readyz`).catch(() => null);
      if (answer?.ok) return;
      if (this.process.exitCode !== null) break;
      await sleep(200);
    }
    throw new Error(`the service does not start:\n${readFileSync(`${this.data}.log`, "utf8").slice(-2000)}`);
  }

  /** Ends the process at once, in the middle of whatever it does. */
  async kill() {
    const gone = new Promise((done) => this.process.once("exit", done));
    this.process.kill("SIGKILL");
    await gone;
  }

  async stop() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = new Promise((done) => this.process.once("exit", done));
    this.process.kill("SIGTERM");
    await Promise.race([gone, sleep(20_000)]);
    this.process.kill("SIGKILL");
  }

  /** The first key of a service that asks for keys. */
  get firstKey() {
    return /^vstar_\S+/m.exec(readFileSync(`${this.data}.log`, "utf8"))?.[0] ?? null;
  }

  /** @param {string} method @param {string} path @param {any} [body] @param {string | null} [key] */
  async call(method, path, body, key = null) {
    const isForm = body instanceof FormData;
    const answer = await fetch(new URL(path, this.url), {
      method,
      body: body === undefined ? undefined : isForm ? body : JSON.stringify(body),
      headers: { ...(body === undefined || isForm ? {} : { "content-type": "application/json" }), ...(key ? { authorization: `Bearer ${key}` } : {}) },
    });
    const said = answer.status === 204 ? null : await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${JSON.stringify(said)}`);
    return said;
  }

  /** Waits for the end of a job. @param {string} path @param {string | null} [key] */
  async ended(path, key = null) {
    for (;;) {
      const job = await this.call("GET", `${path}?wait=10`, undefined, key);
      if (["succeeded", "failed", "canceled"].includes(job.status)) return job;
    }
  }
}

