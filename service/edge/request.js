import { RetortError } from "./error.js";
import { CRYPTO } from "./file.js";
import { findNearest, shown } from "./text.js";

// What a caller may give, checked as POST /recommend and POST /events check it.

const MOST = { k: 200, history: 200, exclude: 1000, candidates: 1000, boost: 20, max_per: 20, pin: 100, fields: 64 };
const MOST_DEEP = 1000;
const MOST_CONDITIONS = 32; // of a boost
const MOST_TREND = 10;
const LARGEST_BOOST = 1e9;
const OPTIONS = [
  "k", "history", "exclude", "candidates", "exclude_seen", "filter", "fields", "boost", "max_per", "diversity", "pin",
  "offset", "trend",
];
const OF_THE_SERVICE = ["user_id", "budget_ms", "debug", "explain", "scenario"];
const CONTROL = /[\u0000-\u001f\u007f-\u009f]|[\ud800-\udfff]/u;
const MILLISECONDS_FROM = 1e11;

/** Return the options of recommend() with their defaults; excludeSeen: the bundle's. */
export function checkOptions(options, excludeSeen) {
  checkNames("recommend", options, OPTIONS, OF_THE_SERVICE);
  const { k = 10, history = null, exclude = [], candidates = null, exclude_seen = null, filter = null } = options;
  checkWhole("k", k, 1, MOST.k);
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
    ...checkRules(options, k),
  };
}

function checkRules({ fields = null, boost = [], max_per = [], diversity = 0, pin = [], offset = 0, trend = 1 }, k) {
  if (fields !== null) {
    checkList("fields", fields, (path, name) => {
      if (typeof name !== "string" || !name) refuseOption(path, `a name, not ${shown(name)}`);
    });
  }
  checkObjects("boost", boost, ["if", "by"], (path, { if: whom, by }) => {
    if (typeof by !== "number" || !(by > 0 && by <= LARGEST_BOOST)) {
      refuseOption(`${path}.by`, `a number above 0, at most ${LARGEST_BOOST}, not ${shown(by)}`);
    }
    if (Object.keys(whom ?? {}).length > MOST_CONDITIONS) {
      refuseOption(`${path}.if`, `at most ${MOST_CONDITIONS} conditions`);
    }
  });
  checkObjects("max_per", max_per, ["attribute", "n"], (path, { attribute, n }) => {
    checkId(`${path}.attribute`, attribute);
    checkWhole(`${path}.n`, n, 1, MOST_DEEP);
  });
  checkOnce("max_per", "attribute", max_per);
  if (typeof diversity !== "number" || !(diversity >= 0 && diversity <= 1)) {
    refuseOption("diversity", `a number from 0 to 1, not ${shown(diversity)}`);
  }
  if (typeof trend !== "number" || !(trend >= 0 && trend <= MOST_TREND)) {
    refuseOption("trend", `a number from 0 to ${MOST_TREND}, not ${shown(trend)}`);
  }
  checkObjects("pin", pin, ["item_id", "position"], (path, { item_id, position }) => {
    checkId(`${path}.item_id`, item_id);
    checkWhole(`${path}.position`, position, 1, MOST_DEEP);
  });
  checkOnce("pin", "position", pin);
  checkOnce("pin", "item_id", pin);
  checkWhole("offset", offset, 0, MOST_DEEP);
  if (offset && offset + k > MOST_DEEP) {
    refuseOption("offset", `with k it is ${MOST_DEEP} at most, and ${offset} + ${k} is more`);
  }
  return { fields, boost, max_per, diversity, pin, offset, trend };
}

function refuseOption(path, why) {
  throw new RetortError("malformed", `${path}: ${why}`);
}

function checkWhole(path, value, least, most) {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  refuseOption(path, `a whole number from ${least} to ${most}, not ${shown(value)}`);
}

function checkList(name, list, check) {
  if (!Array.isArray(list)) refuseOption(name, `a list, not ${shown(list)}`);
  if (list.length > MOST[name]) refuseOption(name, `${list.length} given, at most ${MOST[name]}`);
  for (let place = 0; place < list.length; place++) check(`${name}.${place}`, list[place]);
}

function checkObjects(name, list, known, check) {
  checkList(name, list, (path, each) => {
    checkNames(path, each, known, [], `${path}.`);
    check(path, each);
  });
}

function checkOnce(name, field, list) {
  const values = list.map((each) => each[field]);
  const twice = values.find((value, place) => values.indexOf(value) < place);
  if (twice !== undefined) refuseOption(name, `the ${field} ${twice} is there twice`);
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
  const event = { item_id: checkId("item_id", item_id), timestamp, event_id: randomName() };
  return { ...event, ...(type === undefined ? {} : { type }), ...(value === undefined ? {} : { value }) };
}

/** Refuse names that are not known; those of the service are told apart from mistakes. path: what stands before them. */
export function checkNames(where, options, known, ofTheService, path = "") {
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
      `${path}${name.slice(0, 100)}: unknown${like !== null ? `; did you mean ${like}?` : `, known are ${known.join(", ")}`}`,
    );
  }
}

/** Return a list of ids. */
export function checkIds(name, ids) {
  if (!Array.isArray(ids)) throw new RetortError("malformed", `${name}: a list of item ids, not ${shown(ids)}`);
  if (ids.length > (MOST[name] ?? Infinity)) {
    throw new RetortError("malformed", `${name}: ${ids.length} ids, at most ${MOST[name]}`);
  }
  Array.from(ids).forEach((id, place) => checkId(`${name}.${place}`, id));
  return ids;
}

function checkId(path, id) {
  if (!isId(id)) refuseOption(path, `1 to 128 characters without control characters, not ${shown(id)}`);
  return id;
}

/** Return 32 hex digits that nobody else has. */
export function randomName() {
  return Array.from(CRYPTO.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function isId(id) {
  if (typeof id !== "string" || id.length < 1 || id.length > 256 || CONTROL.test(id)) return false;
  return id.length <= 128 || [...id].length <= 128;
}
