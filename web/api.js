/**
 * The only place with `fetch`.
 *
 * Paths are relative to the document (`v1/concepts`), so that the page works behind a proxy below any path. Absolute paths of
 * the API's own bodies (`/v1/images/…/content`) are accepted and made relative.
 */
import { connectionLost } from "./connection.js";
import { askForKey, authorization } from "./session.js";

/** @typedef {{pointer: string, code: string, detail: string}} FieldError */
/** @typedef {{body: any, headers: Headers, status: number, etag: string | null}} Answer */
/** @typedef {{headers?: Record<string, string>, signal?: AbortSignal, key?: string | null}} Options `key` null: the request makes
 *   nothing that a second one would make twice. */

/** What the server refused, and why. `code` is `unreachable` if there was no answer at all. */
export class Problem extends Error {
  /** @param {any} body @param {number} status @param {Headers} [headers] */
  constructor(body, status, headers) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    /** @type {string} */
    this.code = body.code ?? "unknown";
    this.status = status;
    /** @type {string} */
    this.title = body.title ?? "Error";
    /** @type {string} */
    this.detail = this.message;
    /** @type {FieldError[]} */
    this.errors = body.errors ?? [];
    /** @type {string | null} */
    this.requestId = body.request_id ?? headers?.get("x-request-id") ?? null;
    this.retryable = Boolean(body.retryable);
    /** A proxy's answer for a server that is away: it is no problem of the API. */
    this.isGateway = status >= 502 && status <= 504 && !body.code;
    this.retryAfter = Number(headers?.get("retry-after")) || null;
  }
}

const UNREACHABLE = {
  code: "unreachable",
  title: "No answer",
  detail: "The server does not answer. The page goes on as soon as it does.",
  retryable: true,
};

/** A path of the API, relative to the document. */
export const relative = (/** @type {string} */ path) => path.replace(/^\/+/, "");

/** An idempotency key. Keep one for all tries of what the user asked for once. */
export const idempotencyKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const wait = (/** @type {number} */ ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Sends one request and repeats it where that is safe: after signing in, after a lost connection, and while the server says
 * that it is busy.
 *
 * @param {string} method
 * @param {string} path
 * @param {any} body
 * @param {Options} options
 * @returns {Promise<Response>}
 */
async function send(method, path, body, { headers = {}, signal, key } = {}) {
  const isForm = body instanceof FormData || body instanceof Blob;
  const sent = {
    ...(body === undefined || isForm ? {} : { "content-type": "application/json" }),
    ...(method === "POST" && key !== null ? { "idempotency-key": key ?? idempotencyKey() } : {}),
    ...headers,
  };
  for (let attempt = 1; ; attempt++) {
    /** @type {Response} */
    let response;
    const used = authorization();
    try {
      response = await fetch(relative(path), {
        method,
        headers: { ...sent, ...used },
        body: body === undefined ? undefined : isForm ? body : JSON.stringify(body),
        signal,
      });
    } catch (cause) {
      if (signal?.aborted) throw cause;
      await away(method, attempt);
      continue;
    }
    if (response.ok || response.status === 304) return response;
    const problem = await problemOf(response);
    if (problem.isGateway) {
      await away(method, attempt);
      continue;
    }
    if (response.status === 401) {
      await signedInAgain(used);
      continue;
    }
    if (isBusy(problem) && attempt < 4) {
      await wait(pauseOf(problem, attempt));
      continue;
    }
    throw problem;
  }
}

/** Asks for another key, unless another request has got one meanwhile. @param {Record<string, string>} used The refused one. */
async function signedInAgain(used) {
  if (used.authorization !== authorization().authorization) return;
  await askForKey(used.authorization ? "The server does not accept this key." : null);
}

/** Whether the same request may succeed in a moment. @param {Problem} problem */
const isBusy = ({ status, code }) => status === 503 || (status === 409 && code === "idempotency_in_flight");

/** How long to wait before the next attempt, in milliseconds. @param {Problem} problem @param {number} attempt */
const pauseOf = ({ retryAfter }, attempt) => Math.min(retryAfter ?? attempt, 5) * 1000;

/**
 * Waits until the server answers again. Throws if the request must not be repeated: whether it was done is not known. A POST
 * carries a key that keeps it from being done twice, a DELETE has none.
 *
 * @param {string} method @param {number} attempt
 */
async function away(method, attempt) {
  const back = connectionLost();
  if (method === "DELETE" || (method !== "GET" && attempt >= 5)) throw new Problem(UNREACHABLE, 0);
  await back;
}

/** @param {Response} response */
async function problemOf(response) {
  const type = response.headers.get("content-type") ?? "";
  const body = type.includes("json") ? await response.json().catch(() => ({})) : {};
  return new Problem(body, response.status, response.headers);
}

/** @param {Response} response @returns {Promise<Answer>} */
async function answerOf(response) {
  const type = response.headers.get("content-type") ?? "";
  const body = response.status === 204 ? null : type.includes("json") ? await response.json() : await response.text();
  return { body, headers: response.headers, status: response.status, etag: response.headers.get("etag") };
}

export const api = {
  /** @param {string} path @param {Options} [options] */
  get: async (path, options = {}) => answerOf(await send("GET", path, undefined, options)),

  /** @param {string} path @param {any} [body] @param {Options} [options] */
  post: async (path, body, options = {}) => answerOf(await send("POST", path, body, options)),

  /** @param {string} path @param {any} body @param {Options} [options] */
  patch: async (path, body, options = {}) => answerOf(await send("PATCH", path, body, options)),

  /** @param {string} path @param {any} body @param {Options} [options] */
  put: async (path, body, options = {}) => answerOf(await send("PUT", path, body, options)),

  /** @param {string} path @param {Options} [options] */
  delete: async (path, options = {}) => answerOf(await send("DELETE", path, undefined, options)),

  /** The bytes of a file. @param {string} path @param {Options} [options] */
  blob: async (path, options = {}) => (await send("GET", path, undefined, options)).blob(),

  /** A response whose body is read as it comes. @param {string} path @param {Options} [options] */
  open: (path, options = {}) =>
    fetch(relative(path), { headers: { ...options.headers, ...authorization() }, signal: options.signal, cache: "no-store" }),

  /**
   * All entries of a list, page by page. `limit` is the most that is read.
   *
   * @param {string} path
   * @param {{limit?: number, signal?: AbortSignal}} [options]
   * @returns {Promise<any[]>}
   */
  all: async (path, { limit = 1000, signal } = {}) => {
    const all = [];
    for (let next = withParameter(path, "limit", "100"); ; ) {
      const { body } = await api.get(next, { signal });
      all.push(...body.data);
      if (!body.has_more || all.length >= limit) return all.slice(0, limit);
      next = withParameter(withParameter(path, "limit", "100"), "after", body.next_cursor);
    }
  },

  /**
   * Sends a form and reports how much of it has gone, 0 to 1.
   *
   * @param {string} path
   * @param {FormData} form
   * @param {(share: number) => void} [onProgress]
   * @param {{key?: string, method?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Answer>}
   */
  upload: async (path, form, onProgress = () => {}, { key = idempotencyKey(), method = "POST", signal } = {}) => {
    for (let attempt = 1; ; attempt++) {
      const used = authorization();
      try {
        return await sendForm(method, relative(path), form, onProgress, key, used, signal);
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.status === 401) await signedInAgain(used);
        else if ((problem.status === 0 || problem.isGateway) && attempt < 5) await connectionLost();
        else if (isBusy(problem) && attempt < 4) await wait(pauseOf(problem, attempt));
        else throw problem;
      }
    }
  },
};

/** @param {string} path @param {string} name @param {string} value */
export function withParameter(path, name, value) {
  const [plain, search = ""] = path.split("?");
  const parameters = new URLSearchParams(search);
  parameters.set(name, value);
  return `${plain}?${parameters}`;
}

/**
 * `fetch` does not say how much of a body has gone, so forms are sent by `XMLHttpRequest`.
 *
 * @param {string} method @param {string} path @param {FormData} form @param {(share: number) => void} onProgress
 * @param {string} key @param {Record<string, string>} headers @param {AbortSignal} [signal] @returns {Promise<Answer>}
 */
function sendForm(method, path, form, onProgress, key, headers, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (method === "POST") request.setRequestHeader("idempotency-key", key);
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
    request.onerror = () => reject(new Problem(UNREACHABLE, 0));
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    request.onload = () => {
      const answered = new Headers();
      for (const name of ["etag", "x-request-id", "retry-after", "location"]) {
        const value = request.getResponseHeader(name);
        if (value) answered.set(name, value);
      }
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // A proxy's page is no JSON; the status says enough.
      }
      if (request.status >= 200 && request.status < 300) {
        resolve({ body, headers: answered, status: request.status, etag: answered.get("etag") });
      } else {
        reject(new Problem(body ?? {}, request.status, answered));
      }
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
