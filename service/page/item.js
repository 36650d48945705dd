// Items as the screens show them: what is known of them by id, lists with cards, and the search for them.

import { ask } from "./api.js";
import { html, shown, Trouble, useEffect, useLoaded, useSettled, useState } from "./kit.js";

const MOST_ASKED = 200;
const known = new Map();

/** Return what is known of an item: {item_id, title, and its attributes by name}; null if nothing. */
export const knownItem = (itemId) => known.get(itemId) ?? null;

/** Return an item's title, or its id where it has none or nothing is known. */
export const titleOf = (itemId) => known.get(itemId)?.title || itemId;

/** Keep what an answer of the service says of items. */
export function learn(items) {
  for (const { score, parts, because, ...item } of items) known.set(item.item_id, { ...known.get(item.item_id), ...item });
}

/** Return the names of all that can be shown of an item. model: of GET /model. */
export const fieldsOf = (model) => ["title", ...Object.keys(model.attributes).slice(0, 60)];

/** Make sure that the titles of some ids are known, with one request for all of them. Returns whether they are. */
export function useTitles(itemIds, model) {
  const missing = itemIds.filter((each) => !known.has(each)).slice(0, MOST_ASKED);
  const [, setSeen] = useState(0);
  useEffect(() => {
    if (!missing.length) return undefined;
    const controller = new AbortController();
    const asked = { history: [], candidates: missing, k: missing.length, fields: fieldsOf(model), exclude_seen: false };
    ask("POST", "/recommend", asked, { signal: controller.signal })
      .then((answer) => {
        learn(answer.items);
        for (const each of missing) if (!known.has(each)) known.set(each, { item_id: each, title: null });
        setSeen((n) => n + 1);
      })
      .catch(() => undefined);  // the list itself says what is wrong
    return () => controller.abort();
  }, [missing.join("\n")]);
}

/** The attributes of an item in a line of small marks. */
export function Marks({ item }) {
  const marks = [];
  for (const [name, value] of Object.entries(item ?? {})) {
    if (["item_id", "title", "score", "parts", "because"].includes(name) || value === null) continue;
    const text = Array.isArray(value) ? value.join(", ") : typeof value === "number" ? shown(value) : String(value);
    marks.push(html`<span class="mark" key=${name}><span class="mark-name">${name}</span> ${text}</span>`);
  }
  return marks.length ? html`<div class="marks">${marks}</div>` : null;
}

/** A ranked list. before: the ids of another list, for arrows. foot: (item) => what stands below each. */
export function List({ items, before, foot, actions, label }) {
  if (!items.length) return html`<p class="faint">Nothing is left for this list.</p>`;
  return html`<ol class="list" aria-label=${label}>
    ${items.map((item, place) => html`<li class="card" key=${item.item_id} data-item=${item.item_id}>
      <span class="rank" aria-hidden="true">${place + 1}</span>
      <div class="card-body">
        <div class="card-head">
          <span class="title">${item.title || item.item_id}</span>
          ${before && html`<${Move} from=${before.indexOf(item.item_id)} to=${place} />`}
        </div>
        <div class="card-sub"><code>${item.item_id}</code>
          <span title="score">${item.score === undefined ? "" : shown(item.score, 3)}</span>
          ${actions?.(item)}</div>
        <${Marks} item=${item} />
        ${foot?.(item, place)}
      </div>
    </li>`)}
  </ol>`;
}

/** How far an item has moved since another list. from: its place there, -1 if it was not in it. */
export function Move({ from, to }) {
  if (from < 0) return html`<span class="move new">new</span>`;
  const steps = from - to;
  if (!steps) return html`<span class="move" aria-label="same place">=</span>`;
  const text = steps > 0 ? `up ${steps}` : `down ${-steps}`;
  return html`<span class=${steps > 0 ? "move up" : "move down"} aria-label=${text}>
    ${steps > 0 ? "▲" : "▼"}${Math.abs(steps)}</span>`;
}

/** A search for items by title where the service has one, else by id, among those that it suggests. */
export function Search({ abilities, model, history, onPick, label }) {
  const [text, setText] = useState("");
  const wanted = useSettled(text.trim());
  const canSearch = abilities.has("POST /items/search");
  const { value, error } = useLoaded((signal) => find(wanted, canSearch, model, history, signal),
    [wanted, canSearch, canSearch && wanted ? "" : history.join("\n")]);
  const pick = (itemId) => {
    onPick(itemId);
    setText("");
  };
  const submit = (event) => {
    event.preventDefault();
    const first = value?.[0];
    if (first && wanted) pick(first.item_id);
  };
  return html`<form class="search" role="search" onSubmit=${submit}>
    <label class="field wide"><span>${label}</span>
      <input type="search" value=${text} onInput=${(event) => setText(event.target.value)}
        placeholder=${canSearch ? "words of a title" : "an item id, or choose below"} /></label>
    <${Trouble} error=${error} />
    <div class="picks" aria-label="found items">
      ${(value ?? []).map((item) => html`<button type="button" class="pick" key=${item.item_id}
        onClick=${() => pick(item.item_id)} title=${item.item_id}>${item.title || item.item_id}</button>`)}
      ${value && !value.length && html`<span class="faint">No item is called so.</span>`}
    </div>
  </form>`;
}

/** Return the item of that id and those of such a title; without a text, what is recommended after a history. */
async function find(text, canSearch, model, history, signal) {
  const fields = fieldsOf(model), most = 8;
  const asked = text ? { history: [], candidates: [text], exclude_seen: false } : { history };
  const [byId, byTitle] = await Promise.all([
    ask("POST", "/recommend", { ...asked, k: most, fields }, { signal }),
    canSearch && text ? ask("POST", "/items/search", { text, k: most }, { signal }) : { items: [] },
  ]);
  const others = byTitle.items.map(flat).filter(({ item_id }) => item_id !== text);
  const items = [...byId.items, ...others].slice(0, most);
  learn(items);
  return items;
}

/** Return an item of the routes of items as answers of lists show one. */
export const flat = ({ item_id, title, attributes, numbers, booleans }) => ({
  item_id, title, ...attributes, ...numbers, ...booleans,
});
