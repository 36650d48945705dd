import { RetortError } from "./error.js";

// The score of format 2, as service/bundle/score.py defines it: what is added to user · item, and by which weights.

/** Return the rule that the manifest's field `score` says. */
export function readRule(score) {
  const wrong = (why) => new RetortError("bundle_corrupt", `manifest.json: score.${why}`);
  const { parts, gap, neighbours = null, trend = null } = score ?? {};
  const known = ["taste", "neighbours", "trend"];
  if (!Array.isArray(parts) || !parts.every((part) => known.includes(part))) throw wrong(`parts: not of ${known}`);
  const lists = [gap?.knots, gap?.taste, gap?.trend];
  const isGap = lists.every((list) => Array.isArray(list) && list.length && list.every(Number.isFinite));
  if (!isGap || !lists.every((list) => list.length === lists[0].length) || !Number.isFinite(gap.typical)) {
    throw wrong("gap: needs knots, a weight of taste and of trend for each, and what is typical");
  }
  if (parts.includes("neighbours") !== (neighbours !== null)) throw wrong("neighbours: belongs to the part");
  if (parts.includes("trend") !== (trend !== null)) throw wrong("trend: belongs to the part");
  if (trend !== null && trend.half_lives_s?.length !== 1) {
    throw new RetortError("bundle_format", "manifest.json: score.trend: this retort.js reads exactly one half-life");
  }
  return { gap, hasTaste: parts.includes("taste"), neighbours, trend };
}

/** The parts that are added to one bundle's taste. */
export class Sum {
  constructor({ rule, neighbours, counts }) {
    this.rule = rule;
    this.neighbours = neighbours;
    this.counts = counts;
  }

  /** Return the logs of all items' counts at a Unix time, Float32Array. changed: [row, count] that differ. */
  logsAt(now, changed = []) {
    const { half_lives_s, epsilon, as_of } = this.rule.trend;
    const left = Math.fround(2 ** (-Math.max(0, now - as_of) / half_lives_s[0]));
    const { counts } = this;
    const logs = new Float32Array(counts.length);
    for (let row = 0; row < logs.length; row++) logs[row] = Math.log(counts[row] * left + epsilon);
    for (const [row, count] of changed) logs[row] = Math.log(count + epsilon);
    return logs;
  }

  /** Return the weights {taste, trend} of a history. gap: log1p of the seconds since the last event, NaN unknown. */
  weigh(history, gap) {
    if (!history.length && this.rule.trend) return { taste: 0, trend: 1 };
    const { knots, taste, trend, typical } = this.rule.gap;
    const at = Number.isNaN(gap) ? typical : gap;
    return {
      taste: this.rule.hasTaste ? Math.fround(interpolate(at, knots, taste)) : 0,
      trend: this.rule.trend ? Math.fround(interpolate(at, knots, trend)) : 0,
    };
  }

  /** Return a Map: row -> what the neighbours of a history add to its score. history: rows, the oldest first. */
  speak(history) {
    const added = new Map();
    if (!this.neighbours) return added;
    const { rows, weights, scales, width } = this.neighbours;
    const { weight, decay, depth } = this.rule.neighbours;
    const newest = history.slice(-depth).reverse();
    newest.forEach((own, step) => {
      const unit = weight * decay ** step * scales[own];
      for (let place = own * width; place < (own + 1) * width; place++) {
        const row = rows[place];
        if (row >= 0) added.set(row, (added.get(row) ?? 0) + unit * weights[place]);
      }
    });
    return added;
  }
}

function interpolate(at, knots, values) {
  const next = knots.findIndex((knot) => knot >= at);
  if (next === 0) return values[0];
  if (next < 0) return values.at(-1);
  const share = (at - knots[next - 1]) / (knots[next] - knots[next - 1]);
  return values[next - 1] + share * (values[next] - values[next - 1]);
}
