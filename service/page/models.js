// Models: what is served, what was published before, how good each was measured to be, and the change between them.

import { ask, givenKey } from "./api.js";
import { Comparison } from "./comparison.js";
import { html, moment, Part, shown, Trouble, useLoaded, useRef, useState } from "./kit.js";

const RANKINGS = {
  teacher: "the teacher", student: "the student, as trained", student_alone: "the same student, without the teacher",
  compressed: "the student, as it is served",
};
const MEASURES = ["ndcg@10", "hr@10", "mrr@10", "coverage@10"];

export function Models({ model, onModel }) {
  const [edition, setEdition] = useState(0);
  const listed = useLoaded((signal) => ask("GET", "/model/versions", undefined, { signal }), [edition]);
  const { live, versions = [], replicas = [] } = listed.value ?? {};
  const renew = () => [setEdition(edition + 1), onModel()];
  return html`<div>
    <${Part} title="Served now" name="served"><${Served} model=${model} /><//>
    <${Part} title="How good it is" name="quality"><${Quality} quality=${model.quality} /><//>
    <${Trouble} error=${listed.error} />
    ${listed.value && html`<${Part} title="Published" name="published"
        aside=${live?.previous && html`<${Release} label="Roll back" version=${live.previous} path="/model/rollback"
          replicas=${replicas} now=${model} then=${manifestOf(versions, live.previous)} onDone=${renew} />`}>
      ${versions.length ? html`<${Versions} versions=${versions} live=${live} replicas=${replicas} model=${model} renew=${renew} />`
        : html`<p class="faint">Nothing was ever published here: the service serves the bundle that it was started with.</p>`}
    <//>`}
  </div>`;
}

/** Return the figures of a model as it is served; of one that was not compressed, as it was trained. */
const servedOf = (manifest) => manifest?.quality?.compressed ?? manifest?.quality?.student ?? {};

const manifestOf = (versions, version) => versions.find((each) => each.version === version)?.manifest;

function Served({ model }) {
  const facts = {
    Version: html`<code>${model.version}</code>`, Exported: moment(model.created_at), Items: shown(model.n_items),
    Width: model.dim, "Events it reads": model.max_history, Search: `${model.index.kind}, recall@100 ${model.index.recall_at_100}`,
    "Trained on everything in the end": model.refit ? "yes" : "no", Service: model.service_version,
  };
  return html`<dl class="facts">${Object.entries(facts).map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

/** The figures of each ranking that was measured, with their 95 % intervals where there are any. */
function Quality({ quality }) {
  const rankings = Object.entries(quality).filter(([, figures]) => MEASURES.some((each) => each in Object(figures)));
  const measures = MEASURES.filter((each) => rankings.some(([, figures]) => each in figures));
  if (!rankings.length) return html`<p class="faint">This bundle says nothing of its quality.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="quality"><table>
    <thead><tr><th>Ranking</th>${measures.map((each) => html`<th class="number" key=${each}>${each}</th>`)}<th class="number">Users</th></tr></thead>
    <tbody>${rankings.map(([name, figures]) => html`<tr key=${name}><td>${RANKINGS[name] ?? name}</td>
      ${measures.map((each) => html`<td class="number" key=${each}>${shown(figures[each] ?? null, 4)}
        <${Interval} of=${figures[`${each}_interval`]} /></td>`)}
      <td class="number">${shown(figures.users ?? null)}</td></tr>`)}</tbody></table></div>`;
}

const Interval = ({ of }) => of && html`<span class="interval">${shown(of[0], 3)} to ${shown(of[1], 3)}</span>`;

function Versions({ versions, live, replicas, model, renew }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="published versions"><table>
    <thead><tr><th>Version</th><th>Published</th><th class="number">Items</th><th class="number">Width</th>
      <th class="number">MB</th><th class="number">NDCG@10</th><th>Serving</th><th>Change</th></tr></thead>
    <tbody>${versions.map((each) => html`<tr key=${each.version}>
      <td><code>${each.version}</code>${each.version === live?.version && html` <span class="mark">live</span>`}
        ${each.manifest && html`<${Gate} verdict=${each.manifest.lineage.gate} />
          <${Lineage} lineage=${each.manifest.lineage} />`}</td>
      <td>${moment(each.published_at)}</td><td class="number">${shown(each.n_items)}</td><td class="number">${each.dim}</td>
      <td class="number">${shown(each.bytes / 1e6)}</td>
      <td class="number">${shown(servedOf(each.manifest)["ndcg@10"] ?? null, 4)}
        <${Interval} of=${servedOf(each.manifest)["ndcg@10_interval"]} /></td>
      <td>${replicas.filter((own) => own.version === each.version).length} of ${replicas.length}</td>
      <td>${each.version !== live?.version && html`<${Release} label="Activate" version=${each.version}
        path="/model/activate" body=${{ version: each.version }} replicas=${replicas} now=${model} then=${each.manifest}
        onDone=${renew} />`}</td></tr>`)}</tbody></table></div>`;
}

/** What the gate of a refresh said of a version, in one line; nothing of a version that no refresh made. */
const Gate = ({ verdict }) => verdict?.sentence && html`<p class="gate">
  <span class=${verdict.passes ? "move up" : "move down"}>gate</span> ${verdict.sentence}</p>`;

function Lineage({ lineage }) {
  const facts = Object.entries(lineage).filter(([name]) => name !== "gate");
  if (!facts.length) return null;
  return html`<details><summary>made from</summary><dl class="facts">
    ${facts.map(([name, value]) => html`<dt key=${name}>${name}</dt>
      <dd>${typeof value === "object" ? JSON.stringify(value) : String(value)}</dd>`)}</dl></details>`;
}

/** A button that makes another version live, once it was said what that changes. */
function Release({ label, version, path, body, replicas, now, then, onDone }) {
  const dialog = useRef(null);
  const [isOpen, setOpen] = useState(false);
  const [error, setError] = useState(null);
  const release = () => ask("POST", path, body, { isAdmin: true }).then(() => {
    dialog.current.close();
    onDone();
  }, setError);
  const open = () => {
    setError(null);
    setOpen(true);
    dialog.current.showModal();
  };
  const change = (name, read, digits) => {
    const [before, after] = [read(now), then ? read(then) : null];
    return html`<dt>${name}</dt><dd>${shown(before ?? null, digits)} → ${shown(after ?? null, digits)}</dd>`;
  };
  return html`<button type="button" onClick=${open}>${label}</button>
    <dialog ref=${dialog} class="wide" aria-label=${`${label} ${version}`} onClose=${() => setOpen(false)}>
      <h2>${label} <code>${version}</code>?</h2>
      <p>${replicas.length} ${replicas.length === 1 ? "process follows" : "processes follow"} within seconds.</p>
      <dl class="facts">
        ${change("NDCG@10", (each) => servedOf(each)["ndcg@10"], 4)}
        ${change("Items", (each) => each.n_items)}${change("Width", (each) => each.dim)}
      </dl>
      ${isOpen && html`<${Comparison} version=${version} />`}
      ${!givenKey("admin") && html`<p class="faint">This needs the admin key.</p>`}
      <${Trouble} error=${error} />
      <div class="row"><button type="button" onClick=${release}>${label}</button>
        <button type="button" class="quiet" onClick=${() => dialog.current.close()}>Leave it</button></div>
    </dialog>`;
}
