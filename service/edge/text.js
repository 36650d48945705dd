// Texts in messages, and which of two comes first.

const MOST_SHOWN = 64;
const MOST_LISTED = 10;
const LEAST_ALIKE = 0.6;

/** Return a value as JSON for a message, cut to a bearable length. */
export function shown(value) {
  let text;
  try {
    text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  } catch {
    text = String(value); // it contains itself, or an integer that JSON has not
  }
  const letters = [...text.slice(0, 2 * MOST_SHOWN + 2)];
  return letters.length <= MOST_SHOWN ? text : `${letters.slice(0, MOST_SHOWN).join("")}...`;
}

/** Return the end of a message about an unknown name: the known one that is most like it, or some that there are. */
export function nearest(name, known) {
  const like = findNearest(name, known);
  if (like !== null) return `did you mean ${shown(like)}?`;
  if (!known.length) return "the items have none";
  const some = [...known].sort(compare).slice(0, MOST_LISTED).map(shown);
  return `there are ${some.join(", ")}${known.length > MOST_LISTED ? ", ..." : ""}`;
}

/** Return the known name that is most like another; null where none is like it. As difflib of Python tells it. */
export function findNearest(name, known) {
  const letters = [...[...name].slice(0, MOST_SHOWN).join("").toLowerCase()];
  let best = null, most = LEAST_ALIKE, lowest = "";
  for (const each of known) {
    const lower = each.toLowerCase(), own = [...lower];
    const share = (2 * countShared(own, letters)) / (own.length + letters.length);
    if (share > most || (share === most && (best === null || compare(lower, lowest) >= 0))) {
      [best, most, lowest] = [each, share, lower];
    }
  }
  return best;
}

/** Return how many letters two words share: of their longest common piece, and of what is left and right of it. */
function countShared(a, b) {
  let length = 0, endA = 0, endB = 0;
  let row = new Array(b.length + 1).fill(0);
  for (let i = 1; i <= a.length; i++) {
    const next = [0];
    for (let j = 1; j <= b.length; j++) {
      next[j] = a[i - 1] === b[j - 1] ? row[j - 1] + 1 : 0;
      if (next[j] > length) [length, endA, endB] = [next[j], i, j];
    }
    row = next;
  }
  if (!length) return 0;
  const left = countShared(a.slice(0, endA - length), b.slice(0, endB - length));
  return length + left + countShared(a.slice(endA), b.slice(endB));
}

/** Compare texts by code points, as Python does; JavaScript's own order puts U+10000 before U+E000. */
export function compare(a, b) {
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) {
    const [one, other] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (one !== other) return lift(one) - lift(other);
  }
  return a.length - b.length;
}

function lift(unit) {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}
