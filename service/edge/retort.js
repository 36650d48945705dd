import { openBundle } from "./bundle.js";
import { RetortError } from "./error.js";
import { IS_NODE, folderUrl, readBytes } from "./file.js";
import { Database, History, Memory } from "./history.js";
import { Model } from "./model.js";
import { checkEvent, checkIds, checkNames, checkOptions } from "./request.js";
import { Runtime } from "./runtime.js";

// Recommendations on the device: in a browser, where the work is done in a Worker of this same file, and in Node.
//
//     import { Retort } from "./retort.js";
//     const retort = await Retort.load("bundle/");
//     await retort.observe("i3");
//     const answer = await retort.recommend({ k: 10 });

const WORKER = "retort.js"; // the name by which this file knows that it runs in its own Worker
const METHODS = ["recommend", "observe", "history", "forget", "items", "check", "sync"];

/** A loaded bundle. version: of the bundle; n_items: of its items. Calls are answered in their order. */
export class Retort {
  #device;
  #worker;
  #waiting = new Map();
  #calls = 0;

  /**
   * Load a bundle. place: its folder, a URL, in Node also a path.
   * history: item ids, the oldest first, to begin with; nothing is then kept on the device. worker: whether the work is
   * done in a Worker (the default in a browser).
   * Throws RetortError.
   */
  static async load(place, options = {}) {
    checkNames("load", options, ["history", "worker"], []);
    const { history = null, worker = !IS_NODE && typeof Worker !== "undefined" } = options;
    if (history !== null) checkIds("history", history);
    const retort = new Retort();
    const folder = (await folderUrl(place)).href;
    if (worker) retort.#start();
    else retort.#device = new Queue(await Device.open());
    const { version, n_items } = await retort.#call("load", folder, history).catch((error) => {
      retort.close();
      throw error;
    });
    return Object.assign(retort, { version, n_items });
  }

  /**
   * Return the k best items, as POST /recommend answers. Options: k, exclude, candidates, exclude_seen, and history: item
   * ids, the oldest first, instead of what was observed.
   */
  recommend(options = {}) {
    return this.#call("recommend", options);
  }

  /** Note that the user chose an item now. details: timestamp (Unix seconds), type, value. Returns the event. */
  observe(item_id, details = {}) {
    return this.#call("observe", item_id, details);
  }

  /** Return the events that were observed, the oldest first. */
  history() {
    return this.#call("history");
  }

  /** Forget everything that was observed. */
  forget() {
    return this.#call("forget");
  }

  /** Return {item_id, title, attributes, popularity} of ids, null in the place of an unknown one. */
  items(ids) {
    return this.#call("items", ids);
  }

  /** Hold the model against all of the bundle's golden answers; return how many there are. load() checks a few. */
  check() {
    return this.#call("check");
  }

  /** Send what was observed to a service. url: of it; key: of its API; user_id: by default one of this device. */
  sync(options) {
    return this.#call("sync", options);
  }

  /** End the worker. */
  close() {
    this.#worker?.terminate();
    for (const { reject } of this.#waiting.values()) reject(new RetortError("environment", "it was closed"));
    this.#waiting.clear();
  }

  #start() {
    this.#worker = new Worker(new URL(import.meta.url), { type: "module", name: WORKER });
    this.#worker.onmessage = ({ data: { number, value, error } }) => {
      const { resolve, reject } = this.#waiting.get(number);
      this.#waiting.delete(number);
      if (error) reject(new RetortError(error.code, error.message));
      else resolve(value);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const error = new RetortError("environment", `the worker does not run: ${event.message ?? import.meta.url}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
  }

  #call(method, ...given) {
    if (!this.#worker) return this.#device.call(method, given);
    return new Promise((resolve, reject) => {
      const number = (this.#calls += 1);
      this.#waiting.set(number, { resolve, reject });
      this.#worker.postMessage({ number, method, given });
    });
  }
}

/** What does the work, in a Worker or where it was called. */
class Device {
  static async open() {
    const device = new Device();
    const here = new URL("./", import.meta.url);
    const text = await readBytes(new URL("edge.json", here), "default");
    if (text === null) throw new RetortError("runtime", `${here.href}edge.json: missing; keep the folder together`);
    const { runtime } = JSON.parse(new TextDecoder().decode(text));
    device.runtime = await Runtime.open(new URL("runtime/", here), runtime);
    return device;
  }

  async load(folder, history) {
    const now = Date.now() / 1000;
    const events = history?.map((item_id) => checkEvent(item_id, {}, now));
    const isKept = history === null && typeof indexedDB !== "undefined";
    const kept = isKept ? await Database.open().catch(() => null) : null; // some private windows refuse it
    this.observed = new History(kept ?? new Memory(events));
    this.model = await Model.open(await openBundle(new URL(folder)), this.runtime);
    return { version: this.model.manifest.version, n_items: this.model.manifest.n_items };
  }

  async recommend(options) {
    const checked = checkOptions(options, !this.model.manifest.repeat_consumption);
    const known = checked.history ? { ids: [], lastAt: null } : await this.observed.known();
    return this.model.recommend(checked, known, Date.now() / 1000);
  }

  observe(item_id, details) {
    return this.observed.add(checkEvent(item_id, details, Date.now() / 1000));
  }

  history() {
    return this.observed.events();
  }

  forget() {
    return this.observed.forget();
  }

  items(ids) {
    return this.model.describe(checkIds("ids", ids));
  }

  check() {
    return this.model.check();
  }

  sync(options) {
    return this.observed.sync(options);
  }
}

/** Runs a device's calls one after the other. */
class Queue {
  constructor(device) {
    this.device = device;
    this.last = Promise.resolve();
  }

  call(method, given) {
    const done = this.last.then(() => this.device[method](...given));
    this.last = done.catch(() => {});
    return done;
  }
}

/** Answer the page from within the Worker. */
function serve() {
  const opened = Device.open().then((device) => new Queue(device));
  opened.catch(() => {}); // told with the first call
  self.onmessage = async ({ data: { number, method, given } }) => {
    try {
      if (method !== "load" && !METHODS.includes(method)) throw new RetortError("malformed", `${method}: no method`);
      self.postMessage({ number, value: await (await opened).call(method, given) });
    } catch (error) {
      self.postMessage({ number, error: { code: error.code ?? "environment", message: error.message } });
    }
  };
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope && self.name === WORKER) serve();

export { RetortError };
