// Items: find one, see what goes with it, change its price and stock, and add a new one that is live at once.

import { ask } from "./api.js";
import { Field, html, Part, shown, Trouble, useLoaded, useState } from "./kit.js";
import { fieldsOf, flat, knownItem, learn, List, Marks, Search } from "./item.js";

export function Items({ abilities, model }) {
  const [itemId, setItemId] = useState(null);
  const [edition, setEdition] = useState(0);
  return html`<div class="columns">
    <div>
      <${Part} title="Find an item"><${Search} abilities=${abilities} model=${model} history=${[]} label="Title"
        key=${edition} onPick=${setItemId} /><//>
      ${abilities.has("PUT /items/{item_id}") ? html`<${Part} title="Add a new item" name="new">
          <${NewItem} model=${model} onDone=${(id) => [setItemId(id), setEdition(edition + 1)]} /><//>`
        : html`<p class="faint">This service takes no live items.</p>`}
    </div>
    <div aria-live="polite">
      ${itemId && html`<${Item} key=${`${itemId} ${edition}`} itemId=${itemId} abilities=${abilities} model=${model}
        onChange=${() => setEdition(edition + 1)} onPick=${setItemId} />`}
      ${!itemId && html`<p class="faint">Choose an item to see what goes with it.</p>`}
    </div>
  </div>`;
}

function Item({ itemId, abilities, model, onChange, onPick }) {
  const path = `/items/${encodeURIComponent(itemId)}`, isRead = abilities.has("GET /items/{item_id}");
  const read = useLoaded(isRead && ((signal) => ask("GET", path, undefined, { signal })), [itemId]);
  const item = read.value ? flat(read.value) : knownItem(itemId);
  return html`<${Part} title=${item?.title || itemId} name="item">
      <p><code>${itemId}</code> ${read.value && html`<span class="mark">${read.value.state}</span>`}</p>
      <${Marks} item=${item} />
      <${Trouble} error=${read.error} />
      ${read.value && abilities.has("PATCH /items/{item_id}") && html`<${Change} item=${read.value} path=${path}
        onChange=${onChange} />`}
    <//>
    <${Neighbours} itemId=${itemId} abilities=${abilities} model=${model} onPick=${onPick} />`;
}

/** What goes with an item: by POST /similar, or, where there is none, what is recommended to who took it alone. */
function Neighbours({ itemId, abilities, model, onPick }) {
  const isThere = abilities.has("POST /similar"), asked = { k: 10, fields: fieldsOf(model) };
  const found = useLoaded(async (signal) => {
    const answer = isThere ? await ask("POST", "/similar", { ...asked, item_id: itemId }, { signal })
      : await ask("POST", "/recommend", { ...asked, history: [itemId] }, { signal });
    learn(answer.items);
    return answer.items;
  }, [itemId]);
  return html`<${Part} title=${isThere ? "What goes with it" : "What is recommended to who took it"} name="neighbours">
    <${Trouble} error=${found.error} />
    ${found.value && html`<${List} items=${found.value} label="neighbours" actions=${(item) => html`
      <button type="button" class="quiet" onClick=${() => onPick(item.item_id)}>Look</button>`} />`}<//>`;
}

/** Price, stock and flags of an item: its numbers and its booleans. */
function Change({ item, path, onChange }) {
  const [error, setError] = useState(null);
  const numbers = Object.entries(item.numbers), booleans = Object.entries(item.booleans);
  if (!numbers.length && !booleans.length) return null;
  const save = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const body = {};
    if (numbers.length) body.numbers = Object.fromEntries(numbers.map(([name]) => [name, Number(form.get(`n ${name}`))]));
    if (booleans.length) body.booleans = Object.fromEntries(booleans.map(([name]) => [name, form.has(`b ${name}`)]));
    await ask("PATCH", path, body, { isAdmin: true }).then(onChange, setError);
  };
  return html`<form class="row" onSubmit=${save}>
    ${numbers.map(([name, value]) => html`<${Field} label=${name} key=${name}><input type="number" step="any" required
      name=${`n ${name}`} value=${value} /><//>`)}
    ${booleans.map(([name, value]) => html`<label class="check" key=${name}><input type="checkbox" name=${`b ${name}`}
      defaultChecked=${value} /> ${name}</label>`)}
    <button type="submit">Change</button>
    <${Trouble} error=${error} />
  </form>`;
}

function NewItem({ model, onDone }) {
  const [state, setState] = useState({});
  const kinds = Object.entries(model.attributes).filter(([name]) => name !== "title");
  const put = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target), itemId = form.get("item_id").trim();
    try {
      const said = await ask("PUT", `/items/${encodeURIComponent(itemId)}`, itemOf(form, kinds), { isAdmin: true });
      setState({ said, itemId });
      if (said.state === "live") onDone(itemId);
    } catch (error) {
      setState({ error });
    }
  };
  return html`<form onSubmit=${put}>
    <div class="row">
      <${Field} label="Id"><input name="item_id" required maxlength="128" autocomplete="off" /><//>
      <${Field} label="Title" wide><input name="title" required maxlength="1000" autocomplete="off" /><//>
      <${Field} label="Ids it is like, with commas"><input name="like" autocomplete="off" /><//>
      ${kinds.map(([name, kind]) => kind === "boolean"
        ? html`<label class="check" key=${name}><input type="checkbox" name=${`boolean ${name}`} /> ${name}</label>`
        : html`<${Field} label=${name} key=${name}><input name=${`${kind} ${name}`} autocomplete="off"
            type=${kind === "number" ? "number" : "text"} step="any" /><//>`)}
    </div>
    <button type="submit">Add it</button>
    ${state.said && html`<p role="status">${newsOf(state)}</p>`}
    <${Trouble} error=${state.error} />
  </form>`;
}

/** Return what became of an item that was put. said: the answer of the service. */
function newsOf({ said, itemId }) {
  if (said.state !== "live") return `${itemId} is stored, and will be shown by a model that knows it.`;
  const live = `${itemId} is live after ${shown(said.visible_ms)} ms`;
  if (!said.from.includes("nothing")) return `${live}. Its place is found by: ${said.from.join(", ")}.`;
  return `${live}, but nothing tells yet who would like it: give ids that it is like, or attributes that others have.`;
}

/** Return the body of PUT /items/{item_id} that a form says; what is empty is left out. */
function itemOf(form, kinds) {
  const body = { title: form.get("title").trim() };
  const words = (name) => (form.get(name) ?? "").split(",").map((each) => each.trim()).filter(Boolean);
  for (const [name, kind] of kinds) {
    const value = form.get(`${kind} ${name}`);
    if (kind === "boolean") (body.booleans ??= {})[name] = value !== null;
    else if (kind === "number" && value) (body.numbers ??= {})[name] = Number(value);
    else if (kind === "text" && value) (body.attributes ??= {})[name] = words(`text ${name}`);
  }
  if (words("like").length) body.like = words("like");
  return body;
}
