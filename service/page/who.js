// For whom a list is asked: a user with a stored history, or a history that is put together here.

import { html } from "./kit.js";
import { Search, titleOf, useTitles } from "./item.js";

/** Return the fields of a request that say for whom it is; null where that is not said yet. */
export function askedFor(who) {
  if (who.kind === "history") return { history: who.history };
  return who.userId ? { user_id: who.userId } : null;
}

/** The choice of a user or a history. who: {kind, userId, history}. */
export function Who({ who, setWho, abilities, model }) {
  useTitles(who.kind === "history" ? who.history : [], model);
  const choose = (kind) => () => setWho({ ...who, kind });
  return html`<div class="who">
    <div class="switch" role="group" aria-label="For whom">
      <button type="button" aria-pressed=${who.kind === "history"} onClick=${choose("history")}>A history</button>
      <button type="button" aria-pressed=${who.kind === "user"} onClick=${choose("user")}>A user</button>
    </div>
    ${who.kind === "user" ? html`<${User} who=${who} setWho=${setWho} />`
      : html`<${History} who=${who} setWho=${setWho} abilities=${abilities} model=${model} />`}
  </div>`;
}

function User({ who, setWho }) {
  const submit = (event) => {
    event.preventDefault();
    setWho({ ...who, userId: new FormData(event.target).get("user").trim() });
  };
  return html`<form class="row" onSubmit=${submit}>
    <label class="field wide"><span>User id</span>
      <input name="user" value=${who.userId} autocomplete="off" maxlength="128" /></label>
    <button type="submit">Ask</button>
  </form>`;
}

function History({ who, setWho, abilities, model }) {
  const without = (place) => who.history.filter((_, each) => each !== place);
  return html`<div>
    <ul class="chips" aria-label="history, oldest first">
      ${who.history.map((each, place) => html`<li class="chip" key=${`${each} ${place}`}>
        ${titleOf(each)}
        <button type="button" aria-label=${`take ${titleOf(each)} out`}
          onClick=${() => setWho({ ...who, history: without(place) })}>×</button></li>`)}
      ${!who.history.length && html`<li class="faint">Nobody is known yet: the list is what is popular.
        Add something below.</li>`}
    </ul>
    <${Search} abilities=${abilities} model=${model} history=${who.history} label="Add to the history"
      onPick=${(itemId) => setWho({ ...who, history: [...who.history, itemId].slice(-200) })} />
  </div>`;
}
