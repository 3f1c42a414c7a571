// Reads the manifest that vstar writes into its PNG files, without sending the file anywhere.

/** @typedef {import("./api-types").components["schemas"]["Manifest"]} Manifest */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const KEYWORD = "vstar.manifest";
/** Files above this size are not looked into: no image of the service comes near it. */
const LARGEST_FILE = 64 * 1024 * 1024;

/**
 * The manifest of a PNG file, or null if the file is not a PNG or carries none.
 *
 * `text` is the manifest as it stands in the file, `manifest` the same parsed. Throws an `Error` whose message is meant for
 * people if there is a manifest that cannot be read.
 *
 * @param {Blob} file
 * @returns {Promise<{text: string, manifest: Manifest} | null>}
 */
export async function readManifest(file) {
  if (file.size > LARGEST_FILE) return null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!SIGNATURE.every((byte, at) => bytes[at] === byte)) return null;
  const text = await manifestText(bytes);
  if (text === null) return null;
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch {
    throw new Error("The manifest in this PNG is damaged: it is not JSON.");
  }
  if (typeof manifest?.prompt !== "string" || typeof manifest.seed !== "number") {
    throw new Error("The manifest in this PNG is damaged: it has no prompt or no seed.");
  }
  if (!Number.isSafeInteger(manifest.seed)) {
    throw new Error("The seed in this PNG is larger than 9007199254740991, the largest that the service takes.");
  }
  return { text, manifest };
}

/**
 * The text of the chunk `vstar.manifest`: an iTXt chunk, compressed or not.
 *
 * @param {Uint8Array} bytes
 * @returns {Promise<string | null>}
 */
async function manifestText(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = SIGNATURE.length;
  while (at + 12 <= bytes.length) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (data.length < length || kind === "IEND") return null;
    if (kind === "iTXt") {
      const text = await textOfChunk(data);
      if (text !== null) return text;
    }
    at += 12 + length;
  }
  return null;
}

/**
 * The text of an iTXt chunk with our keyword: keyword, 0, compressed, method, language, 0, translated keyword, 0, text.
 *
 * @param {Uint8Array} data
 */
async function textOfChunk(data) {
  const end = data.indexOf(0);
  if (end < 0 || new TextDecoder("latin1").decode(data.subarray(0, end)) !== KEYWORD) return null;
  const isCompressed = data[end + 1] === 1;
  const afterLanguage = data.indexOf(0, end + 3);
  const afterTranslation = afterLanguage < 0 ? -1 : data.indexOf(0, afterLanguage + 1);
  if (afterTranslation < 0) return null;
  const text = data.subarray(afterTranslation + 1);
  try {
    return new TextDecoder().decode(isCompressed ? await inflate(text) : text);
  } catch {
    throw new Error("The manifest in this PNG is damaged: it cannot be unpacked.");
  }
}

/** @param {Uint8Array} bytes */
async function inflate(bytes) {
  const stream = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
