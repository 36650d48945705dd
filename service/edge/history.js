import { RetortError } from "./error.js";
import { checkNames, randomName } from "./request.js";

// What this user did, on this device alone: in IndexedDB, or in memory where there is none. It is sent nowhere unless
// sync() is called.

const READ = 500; // events that the history is made of, as the service keeps
const KEPT = 2000; // events that are kept, sent or not
const PER_CALL = 1000;
const DATABASE = "retort";

export class History {
  /** store: a Memory or a Database. */
  constructor(store) {
    this.store = store;
  }

  async add(event) {
    await this.store.add({ ...event, is_sent: false });
    return event;
  }

  /** Return {ids, lastAt} of the newest events, the oldest first; lastAt is null where there are none. */
  async known() {
    const events = (await this.store.all()).slice(-READ);
    return { ids: events.map((event) => event.item_id), lastAt: events.at(-1)?.timestamp ?? null };
  }

  async events() {
    return (await this.store.all()).map(({ number, ...event }) => event);
  }

  async forget() {
    await this.store.clear();
  }

  /** Send what was not sent yet to POST /events of a service. Repeats are harmless: an event keeps its id. */
  async sync(options) {
    checkNames("sync", options, ["url", "key", "user_id"], []);
    const { url, key, user_id = await this.store.fact("user_id", () => `device-${randomName()}`) } = options;
    if (!url) throw new RetortError("malformed", "url: the address of a Retort service");
    const total = { user_id, accepted: 0, duplicates: 0, rejected: [] };
    const waiting = (await this.store.all()).filter((event) => !event.is_sent);
    for (let first = 0; first < waiting.length; first += PER_CALL) {
      const some = waiting.slice(first, first + PER_CALL);
      const answer = await send(url, key, some.map(({ number, is_sent, ...event }) => ({ user_id, ...event })));
      total.accepted += answer.accepted;
      total.duplicates += answer.duplicates;
      for (const { index, ...why } of answer.rejected) total.rejected.push({ item_id: some[index]?.item_id, ...why });
      await this.store.mark(some);
    }
    return total;
  }
}

async function send(url, key, events) {
  let response;
  try {
    response = await fetch(new URL("events", String(url).replace(/\/*$/, "/")), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(key ? { "X-API-Key": key } : {}) },
      body: JSON.stringify({ events }),
    });
  } catch (error) {
    throw new RetortError("sync", `${url}: cannot be reached; nothing is lost, try again (${error.message})`);
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && Number.isInteger(answer?.accepted)) return answer;
  const why = answer?.error ? `${answer.error.code}: ${answer.error.message}` : "not the answer of a Retort service";
  throw new RetortError("sync", `${url}: ${response.status} ${why}`);
}

/** Events in memory. */
export class Memory {
  constructor(events = []) {
    this.list = [];
    this.facts = new Map();
    for (const event of events) this.add(event);
  }

  async add(event) {
    insert(this.list, event);
    this.list.splice(0, this.list.length - KEPT);
  }

  async all() {
    return this.list;
  }

  async mark(events) {
    for (const event of events) event.is_sent = true;
  }

  async clear() {
    this.list = [];
    this.facts.clear();
  }

  async fact(name, make) {
    if (!this.facts.has(name)) this.facts.set(name, make());
    return this.facts.get(name);
  }
}

/** Events in IndexedDB. Other tabs tell when they changed something. */
export class Database {
  static async open() {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("events", { keyPath: "number", autoIncrement: true });
      request.result.createObjectStore("facts");
    };
    return new Database(await settle(request));
  }

  constructor(database) {
    this.database = database;
    this.cached = null;
    this.channel = new BroadcastChannel(DATABASE);
    this.channel.onmessage = () => (this.cached = null);
  }

  async add(event) {
    const events = this.change("events");
    await settle(events.add(event));
    const keys = await settle(events.getAllKeys());
    for (const key of keys.slice(0, -KEPT)) events.delete(key);
    this.tell();
  }

  async all() {
    if (this.cached === null) {
      const list = [];
      for (const event of await settle(this.database.transaction("events").objectStore("events").getAll())) {
        insert(list, event);
      }
      this.cached = list;
    }
    return this.cached;
  }

  async mark(events) {
    const store = this.change("events");
    await Promise.all(events.map((event) => settle(store.put({ ...event, is_sent: true }))));
    this.tell();
  }

  async clear() {
    await settle(this.change("events").clear());
    await settle(this.change("facts").clear());
    this.tell();
  }

  async fact(name, make) {
    const facts = this.change("facts");
    const known = await settle(facts.get(name));
    if (known !== undefined) return known;
    const made = make();
    await settle(facts.put(made, name));
    return made;
  }

  change(name) {
    return this.database.transaction(name, "readwrite").objectStore(name);
  }

  tell() {
    this.cached = null;
    this.channel.postMessage("changed");
  }
}

/** Put an event where its time belongs; of equal times, the one that came first stays first. */
function insert(list, event) {
  let place = list.length;
  while (place > 0 && list[place - 1].timestamp > event.timestamp) place -= 1;
  list.splice(place, 0, event);
}

function settle(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(new RetortError("environment", `IndexedDB: ${request.error?.message}`));
  });
}
