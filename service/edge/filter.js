import { COMPARISONS } from "./column.js";
import { RetortError } from "./error.js";
import { nearest, shown } from "./text.js";

// The filter of a request, read, checked and applied as service/catalogue/filter.py does it.

const MOST_NESTED = 8;
const MOST_VALUES = 1000;
const MOST_MASKS = 16;
const JOINING = ["and", "or", "all", "$and", "$or"];
const EXAMPLES = { text: 'text, such as "A"', number: "a number, such as 5", boolean: "true or false" };

/** Makes the masks of filters, and keeps those that were lately asked for. */
export class Filters {
  /** columns: by name, of n items each. */
  constructor(columns, n) {
    Object.assign(this, { columns, n, masks: new Map() });
  }

  /**
   * Return for which items a filter holds, Uint8Array [n], which is shared with equal filters. path: the field's name,
   * for messages. Throws RetortError that names what is wrong in it and the nearest known attribute.
   */
  mask(raw, path = "filter") {
    const make = new Reading(this.columns, this.n).group("all", raw, path, 1);
    const key = JSON.stringify(raw);
    const mask = this.masks.get(key) ?? make();
    this.masks.delete(key); // it becomes the newest
    this.masks.set(key, mask);
    if (this.masks.size > MOST_MASKS) this.masks.delete(this.masks.keys().next().value);
    return mask;
  }
}

/** Reads one filter, and counts its values. What it returns are functions that make masks. */
class Reading {
  constructor(columns, n) {
    Object.assign(this, { columns, n, nValues: 0 });
  }

  group(kind, raw, path, depth) {
    if (depth > MOST_NESTED) refuse(path, `filters are nested at most ${MOST_NESTED} deep`);
    if (!isObject(raw)) refuse(path, `a filter is an object such as {"attribute": ["value"]}, not ${shown(raw)}`);
    const entries = Object.entries(raw);
    if (!entries.length && (depth > 1 || kind !== "all")) refuse(path, "has no condition; leave it out");
    const parts = entries.map(([name, value]) => this.part(name, value, `${path}.${name}`, depth));
    return () => this.join(kind, parts.map((make) => make()));
  }

  part(name, raw, path, depth) {
    if (name === "not") return this.group("not", raw, path, depth + 1);
    if (name === "any") {
      if (!Array.isArray(raw) || !raw.length) refuse(path, "a list of filters, at least one");
      const parts = Array.from(raw, (one, place) => this.group("all", one, `${path}.${place}`, depth + 1));
      return () => this.join("any", parts.map((make) => make()));
    }
    this.count(path, 1);
    const column = this.columns.get(name);
    if (!column) {
      refuse(path, `the items have no attribute ${shown(name)}; ${instead(name, [...this.columns.keys()])}`);
    }
    return this.condition(column, name, raw, path);
  }

  condition(column, name, raw, path) {
    const isList = Array.isArray(raw);
    const members = isList ? Array.from(raw) : [raw];
    if (!members.length) refuse(path, "an empty list matches nothing; leave it out");
    this.count(path, members.length);
    const values = [], ranges = [];
    members.forEach((member, place) => {
      const own = isList ? `${path}.${place}` : path;
      if (isObject(member)) ranges.push(readRange(column, name, member, own));
      else if (member !== null) values.push(readValue(column, name, member, own));
    });
    return () => {
      const masks = ranges.map((bounds) => column.between(bounds));
      if (values.length) masks.push(column.having(values));
      if (members.includes(null)) masks.push(column.lacking());
      return this.join("any", masks);
    };
  }

  count(path, n) {
    this.nValues += n;
    if (this.nValues > MOST_VALUES) refuse(path, "a filter has at most 1,000 names and values");
  }

  /** Return the mask of what all, any or none of some masks allow. */
  join(kind, masks) {
    const whole = new Uint8Array(this.n).fill(kind === "all" ? 1 : 0);
    for (const mask of masks) {
      if (kind === "all") for (let row = 0; row < whole.length; row++) whole[row] &= mask[row];
      else for (let row = 0; row < whole.length; row++) whole[row] |= mask[row];
    }
    if (kind === "not") for (let row = 0; row < whole.length; row++) whole[row] ^= 1;
    return whole;
  }
}

/** Return what stands in a filter in the place of what is no attribute. */
function instead(name, known) {
  if (JOINING.includes(name.toLowerCase())) {
    return 'all conditions of a filter hold, and "any" takes a list of filters of which one holds';
  }
  return name === "item_id" ? "give ids as candidates, or exclude them" : nearest(name, known);
}

/** Check a value, which must be of the type of its column. */
function readValue(column, name, value, path) {
  const wanted = column.kind === "text" ? "string" : column.kind;
  if (typeof value !== wanted) refuse(path, `${shown(name)} is ${EXAMPLES[column.kind]}, not ${shown(value)}`);
  return wanted === "number" ? finite(value, path) : value;
}

/** Check a range: known bounds, each a finite number, that leave room for a number. Returns [name, bound] of each. */
function readRange(column, name, raw, path) {
  if (column.kind !== "number") {
    const values = column.kind === "boolean" ? "true or false" : 'values, such as ["A"]';
    refuse(path, `a range asks for numbers, and ${shown(name)} is ${column.kind}: give ${values}`);
  }
  const bounds = Object.entries(raw), known = [...COMPARISONS.keys()];
  if (!bounds.length) refuse(path, `an empty range; give one of ${known.join(", ")}`);
  for (const [bound, number] of bounds) {
    const own = `${path}.${bound}`;
    if (!COMPARISONS.has(bound)) refuse(own, `a range has no bound ${shown(bound)}; ${nearest(bound, known)}`);
    if (typeof number !== "number") refuse(own, `a bound is a number, not ${shown(number)}`);
    finite(number, own);
  }
  const given = new Map(bounds);
  const least = Math.max(...["gt", "gte", "eq"].map((bound) => given.get(bound) ?? -Infinity));
  const most = Math.min(...["lt", "lte", "eq"].map((bound) => given.get(bound) ?? Infinity));
  const isOpen = given.get("gt") === least || given.get("lt") === most;
  if (least > most || (least === most && isOpen)) refuse(path, `no number is inside of ${shown(raw)}`);
  return bounds;
}

function finite(number, path) {
  if (!Number.isFinite(number)) refuse(path, `${shown(number)} is no finite number`);
  return number;
}

/** Whether a value is what JSON writes in braces; in whatever frame or realm it was made. */
function isObject(value) {
  return Object.prototype.toString.call(value) === "[object Object]";
}

function refuse(path, message) {
  throw new RetortError("malformed", `${path.slice(0, 200)}: ${message}`);
}
