// Health: the last hour of this service without a Prometheus.

import { ask } from "./api.js";
import { html, moment, Part, shown, Trouble, usePolling, useState } from "./kit.js";
import { Plot } from "./plot.js";

const EVERY_MS = 10000;

export function Health({ budgetMs }) {
  const [hour, setHour] = useState(null);
  const [ready, setReady] = useState(null);
  const [replicas, setReplicas] = useState([]);
  const [error, setError] = useState(null);
  usePolling(() => {
    ask("GET", "/metrics/hour").then((said) => [setHour(said), setError(null)], setError);
    ask("GET", "/readyz").then(setReady, () => setReady(null));
    ask("GET", "/model/versions").then((said) => setReplicas(said.replicas), () => setReplicas([]));
  }, EVERY_MS);
  return html`<div>
    <${Trouble} error=${error} />
    ${hour && html`<${Tiles} hour=${hour} ready=${ready} budgetMs=${budgetMs} />
      ${hour.samples.length < 2 ? html`<p class="faint" id="waiting">The first samples come within twenty seconds.</p>`
        : html`<${Plots} hour=${hour} budgetMs=${budgetMs} />`}
      <div class="columns even">
        <${Answers} samples=${hour.samples} />
        <${Workers} replicas=${replicas} ready=${ready} samples=${hour.samples} />
      </div>`}
  </div>`;
}

function Tiles({ hour, ready, budgetMs }) {
  const last = hour.samples.at(-1) ?? {};
  const total = (read) => hour.samples.reduce((sum, each) => sum + read(each), 0);
  const answers = total((each) => answersOf(each)), within = total((each) => answersOf(each) * (each.within_budget ?? 0));
  const tiles = [
    ["Answers a second", shown(last.rate ?? null, 1)],
    ["Half within", last.p50_ms == null ? "–" : `${shown(last.p50_ms)} ms`],
    ["99 % within", last.p99_ms == null ? "–" : `${shown(last.p99_ms)} ms`],
    ["Budget", `${shown(budgetMs)} ms`],
    ["In budget, this hour", answers ? `${shown((100 * within) / answers)} %` : "–"],
    ["Store", ready?.store ? (ready.store.is_up ? "up" : ready.store.breaker) : "–"],
  ];
  return html`<dl class="tiles">${tiles.map(([name, value]) => html`<div class="tile" key=${name}>
    <dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${ready?.store?.reason && html`<p class="trouble">${ready.store.reason}</p>`}`;
}

function Plots({ hour, budgetMs }) {
  const { samples } = hour, at = samples.map((each) => each.at);
  const line = (name, color, read) => ({ name, color, values: samples.map(read) });
  const last = samples.at(-1);
  return html`<div class="columns even">
    <${Part} title="Answers a second"><${Plot} at=${at} unit="" summary=${`Now ${shown(last.rate)} answers a second`}
      lines=${[line("all", "--tone-0", (each) => each.rate)]} /><//>
    <${Part} title="Time against the budget"><${Plot} at=${at} unit=" ms"
      summary=${`Now half within ${shown(last.p50_ms)} ms, 99 % within ${shown(last.p99_ms)} ms`}
      lines=${[line("p50", "--tone-0", (each) => each.p50_ms), line("p99", "--tone-1", (each) => each.p99_ms),
        line("budget", "--bad", () => budgetMs)]} /><//>
    <${Part} title="Share in budget"><${Plot} at=${at} unit=" %"
      summary=${`Now ${last.within_budget === null ? "no answers" : `${shown(100 * last.within_budget)} % in budget`}`}
      lines=${[line("in budget", "--tone-2", (each) => each.within_budget === null ? null : 100 * each.within_budget)]}
      /><//>
    <${Part} title="Memory of all workers"><${Plot} at=${at} unit=" MB"
      summary=${`Now ${shown(Math.round(last.memory_bytes / 1e6))} MB`}
      lines=${[line("resident", "--tone-3", (each) => each.memory_bytes / 1e6)]} /><//>
  </div>`;
}

const answersOf = (sample) => Object.values(sample.levels).reduce((sum, n) => sum + n, 0);

function Answers({ samples }) {
  const counts = new Map();
  const add = (name, n) => counts.set(name, (counts.get(name) ?? 0) + n);
  for (const level of ["full", "degraded", "fallback"]) add(level, 0);
  for (const sample of samples) for (const [level, n] of Object.entries(sample.levels)) add(level, n);
  const levels = [...counts], reasons = new Map();
  for (const sample of samples) {
    for (const [reason, n] of Object.entries(sample.reasons)) reasons.set(reason, (reasons.get(reason) ?? 0) + n);
  }
  const sum = (read) => samples.reduce((total, each) => total + read(each), 0);
  const rows = [
    ...levels.map(([name, n]) => [html`level <code>${name}</code>`, n]),
    ...[...reasons].map(([name, n]) => [html`reason <code>${name}</code>`, n]),
    ["refused because of overload", sum((each) => each.refused)],
    ["events stored", sum((each) => each.events)],
    ["store operations that failed", sum((each) => each.store_errors)],
  ];
  return html`<${Part} title="Answers of this hour" name="answers">
    <table><thead><tr><th>What</th><th class="number">How many</th></tr></thead>
      <tbody>${rows.map(([name, n], place) => html`<tr key=${place}><td>${name}</td><td class="number">${shown(n)}</td></tr>`)}
      </tbody></table><//>`;
}

function Workers({ replicas, ready, samples }) {
  return html`<${Part} title="Processes">
    <p>Serving <code>${ready?.model_version ?? "–"}</code>${ready && !ready.ready ? ", and about to stop" : ""};
      ${" "}${shown(samples.at(-1)?.in_flight ?? 0)} requests being answered.</p>
    ${replicas.length > 0 && html`<table>
      <thead><tr><th>Process</th><th>Version</th><th>Last result</th><th>Heard of</th></tr></thead>
      <tbody>${replicas.map((each) => html`<tr key=${each.name}><td><code>${each.name}</code></td>
        <td><code>${each.version}</code></td><td title=${each.message}>${each.result}</td>
        <td>${moment(each.at)}</td></tr>`)}</tbody></table>`}<//>`;
}
