/**
 * Files that a page has been given and not sent yet, kept over a reload in the browser's database. Each tab has its own.
 */
import { useEffect, useRef, useState } from "./ui/html.js";
import { drafts } from "./store.js";

/** What a tab that was closed has left is removed after so many milliseconds. */
const KEPT = 24 * 3600 * 1000;

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function open() {
  opened ??= new Promise((done, failed) => {
    const request = indexedDB.open("vstar", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files");
    request.onsuccess = () => done(request.result);
    request.onerror = request.onblocked = () => failed(request.error);
  });
  return opened;
}

/**
 * Does one thing with the store, and returns its result.
 *
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} act
 * @returns {Promise<any>}
 */
async function inStore(mode, act) {
  const request = act((await open()).transaction("files", mode).objectStore("files"));
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

function tab() {
  const known = drafts.get("tab") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
  drafts.set("tab", known);
  return known;
}

/** Removes what tabs have left that are closed. */
async function sweep() {
  for (const key of await inStore("readonly", (store) => store.getAllKeys())) {
    const { at } = (await inStore("readonly", (store) => store.get(key))) ?? { at: 0 };
    if (Date.now() - at > KEPT) await inStore("readwrite", (store) => store.delete(key));
  }
}

/**
 * Like `useState` for a list of files. `kept` is false until the browser has them, and where it keeps nothing: then a reload
 * loses them.
 *
 * @param {string} name Unique in the page, such as `concept-new`.
 * @returns {{files: File[], setFiles: (change: (former: File[]) => File[]) => void, kept: boolean, forget: () => void}}
 */
export function useFiles(name) {
  const [files, setFiles] = useState(/** @type {File[]} */ ([]));
  const [kept, setKept] = useState(true);
  const key = useRef(`${tab()}/${name}`).current;
  const changed = useRef(false);
  useEffect(() => {
    inStore("readonly", (store) => store.get(key)).then(
      (found) => !changed.current && found && setFiles(found.files),
      () => setKept(false),
    );
    sweep().catch(() => {});
  }, []);
  useEffect(() => {
    if (!changed.current) return;
    setKept(false);
    const put = files.length ? inStore("readwrite", (store) => store.put({ files, at: Date.now() }, key)) : inStore("readwrite", (store) => store.delete(key));
    put.then(
      () => setKept(true),
      () => {},
    );
  }, [files]);
  const set = (/** @type {(former: File[]) => File[]} */ change) => {
    changed.current = true;
    setFiles(change);
  };
  const forget = () => {
    set(() => []);
    // At once, for the page may be left before it is rendered again.
    inStore("readwrite", (store) => store.delete(key)).catch(() => {});
  };
  return { files, kept, setFiles: set, forget };
}
