import { RetortError } from "./error.js";
import { CRYPTO } from "./file.js";
import { findNearest, shown } from "./text.js";

// What a caller may give, checked as POST /recommend and POST /events check it.

const MOST = { k: 200, history: 200, exclude: 1000, candidates: 1000 };
const OPTIONS = ["k", "history", "exclude", "candidates", "exclude_seen", "filter"];
const OF_THE_SERVICE = [
  "user_id", "budget_ms", "debug", "boost", "pin", "max_per", "diversity", "fields", "offset", "explain",
  "scenario",
];
const CONTROL = /[\u0000-\u001f\u007f-\u009f]|[\ud800-\udfff]/u;
const MILLISECONDS_FROM = 1e11;

/** Return the options of recommend() with their defaults; excludeSeen: the bundle's. */
export function checkOptions(options, excludeSeen) {
  checkNames("recommend", options, OPTIONS, OF_THE_SERVICE);
  const { k = 10, history = null, exclude = [], candidates = null, exclude_seen = null, filter = null } = options;
  if (!Number.isInteger(k) || k < 1 || k > MOST.k) {
    throw new RetortError("malformed", `k: a whole number from 1 to ${MOST.k}, not ${shown(k)}`);
  }
  if (exclude_seen !== null && typeof exclude_seen !== "boolean") {
    throw new RetortError("malformed", `exclude_seen: true, false or null, not ${shown(exclude_seen)}`);
  }
  return {
    k,
    history: history === null ? null : checkIds("history", history),
    exclude: checkIds("exclude", exclude),
    candidates: candidates === null ? null : checkIds("candidates", candidates),
    exclude_seen: exclude_seen ?? excludeSeen,
    filter,
  };
}

/** Return an event of observe() as it is kept. */
export function checkEvent(item_id, details, now) {
  checkNames("observe", details, ["timestamp", "type", "value"], []);
  const { timestamp = now, type, value } = details;
  if (typeof timestamp !== "number" || !(timestamp >= 0)) {
    throw new RetortError("malformed", `timestamp: Unix seconds, not ${shown(timestamp)}`);
  }
  if (timestamp >= MILLISECONDS_FROM) {
    throw new RetortError("malformed", "timestamp: Unix seconds; are these milliseconds?");
  }
  if (type !== undefined && (typeof type !== "string" || type.length > 64 || !isId(type))) {
    throw new RetortError("malformed", "type: a text of 1 to 64 characters without control characters");
  }
  if (value !== undefined && !(Math.abs(value) <= 1e12)) {
    throw new RetortError("malformed", `value: a number from -1e12 to 1e12, not ${shown(value)}`);
  }
  const event = { item_id: checkIds("item_id", [item_id])[0], timestamp, event_id: randomName() };
  return { ...event, ...(type === undefined ? {} : { type }), ...(value === undefined ? {} : { value }) };
}

/** Refuse names that are not known; those of the service are told apart from mistakes. */
export function checkNames(where, options, known, ofTheService) {
  if (options === null || typeof options !== "object" || Array.isArray(options)) {
    throw new RetortError("malformed", `${where}: give an object of options`);
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    if (ofTheService.includes(name)) {
      throw new RetortError("malformed", `${name}: not supported here yet; the service takes it in POST /recommend`);
    }
    const like = findNearest(name, known);
    throw new RetortError(
      "malformed",
      `${name.slice(0, 100)}: unknown${like !== null ? `; did you mean ${like}?` : `, known are ${known.join(", ")}`}`,
    );
  }
}

/** Return a list of ids. */
export function checkIds(name, ids) {
  if (!Array.isArray(ids)) throw new RetortError("malformed", `${name}: a list of item ids, not ${shown(ids)}`);
  if (ids.length > (MOST[name] ?? Infinity)) {
    throw new RetortError("malformed", `${name}: ${ids.length} ids, at most ${MOST[name]}`);
  }
  ids.forEach((id, place) => {
    if (!isId(id)) {
      const where = name === "item_id" ? name : `${name}.${place}`;
      throw new RetortError("malformed", `${where}: 1 to 128 characters without control characters, not ${shown(id)}`);
    }
  });
  return ids;
}

/** Return 32 hex digits that nobody else has. */
export function randomName() {
  return Array.from(CRYPTO.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function isId(id) {
  if (typeof id !== "string" || id.length < 1 || id.length > 256 || CONTROL.test(id)) return false;
  return id.length <= 128 || [...id].length <= 128;
}
