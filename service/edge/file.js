import { RetortError } from "./error.js";

// Where bytes come from: files in Node, else the network, and a cache that is kept by version.

export const IS_NODE = typeof process !== "undefined" && Boolean(process.versions?.node);

export const CRYPTO = globalThis.crypto ?? (await import("node:crypto")).webcrypto; // Node 18 has no global one

/** Return the URL of a folder. In Node a text without a scheme is a path. */
export async function folderUrl(place) {
  const text = String(place).replace(/\/*$/, "/");
  if (IS_NODE && !/^[a-z]{2,}:/i.test(text)) {
    const { pathToFileURL } = await import("node:url");
    return new URL(pathToFileURL(text).href.replace(/\/*$/, "/"));
  }
  return new URL(text, globalThis.location?.href);
}

/** Return the bytes at a URL, a Uint8Array of their own; null where there are none. Throws TypeError when offline. */
export async function readBytes(url, cache = "no-cache") {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    try {
      return new Uint8Array(await readFile(url));
    } catch (error) {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return null;
      throw error;
    }
  }
  const response = await fetch(url, { cache });
  if (!response.ok) return null;
  return new Uint8Array(await response.arrayBuffer());
}

/** Say what is wrong with some bytes: their size or their sum; null if nothing is. */
export async function findFault(bytes, expected) {
  if (bytes.length !== expected.size) return `${bytes.length} bytes, ${expected.size} are expected`;
  if (!CRYPTO.subtle) {
    throw new RetortError("environment", "sums cannot be checked here: serve the page by https, or from localhost");
  }
  const sum = new Uint8Array(await CRYPTO.subtle.digest("SHA-256", bytes));
  const text = Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return text === expected.sha256 ? null : "its sha256 is not the expected one";
}

/** The files of one folder in one version, kept in the browser's Cache. Elsewhere nothing is kept. */
export class Kept {
  constructor(folder, version, cache) {
    this.folder = folder;
    this.version = version;
    this.cache = cache;
  }

  /** Open what is kept of a folder; version null: whichever is there, or null if none is. */
  static async open(folder, version) {
    if (!folder.protocol.startsWith("http") || typeof caches === "undefined") {
      return version === null ? null : new Kept(folder, version, null);
    }
    const prefix = `retort ${folder.href} `;
    if (version !== null) return new Kept(folder, version, await caches.open(prefix + version));
    const found = (await caches.keys()).filter((name) => name.startsWith(prefix)).at(-1);
    return found ? new Kept(folder, found.slice(prefix.length), await caches.open(found)) : null;
  }

  /** Return a file's bytes, checked: from the cache, else from the folder. code: of the error where it is wrong. */
  async read(name, expected, code) {
    const url = new URL(name, this.folder);
    const kept = await this.cache?.match(url);
    if (kept) {
      const bytes = new Uint8Array(await kept.arrayBuffer());
      if ((await findFault(bytes, expected)) === null) return bytes;
      await this.cache.delete(url);
    }
    let fault = "missing";
    for (const mode of ["default", "reload"]) {
      const bytes = await readBytes(url, mode);
      fault = bytes === null ? "missing" : await findFault(bytes, expected);
      if (fault === null) {
        await this.keep(name, bytes);
        return bytes;
      }
      if (url.protocol === "file:") break; // read again, it would be the same
    }
    throw new RetortError(code, `${name}: ${fault}`);
  }

  /** Keep bytes for the next visit. A full disk only means that they are fetched again. */
  async keep(name, bytes) {
    try {
      await this.cache?.put(new URL(name, this.folder), new Response(bytes));
    } catch {
      // QuotaExceededError
    }
  }

  /** Return what is kept of a file; null if nothing is. */
  async kept(name) {
    const response = await this.cache?.match(new URL(name, this.folder));
    return response ? new Uint8Array(await response.arrayBuffer()) : null;
  }

  /** Forget the other versions of the folder. */
  async forgetOthers() {
    if (!this.cache) return;
    const prefix = `retort ${this.folder.href} `;
    const others = (await caches.keys()).filter((name) => name.startsWith(prefix) && name !== prefix + this.version);
    await Promise.all(others.map((name) => caches.delete(name)));
  }
}
