// The page: its screens, the keys, and light or dark.

import { Abilities, ask, givenKey, keepKey, takeKey } from "./api.js";
import { Field, html, render, Trouble, useEffect, useRef, useState } from "./kit.js";
import { Health } from "./health.js";
import { Items } from "./items.js";
import { Models } from "./models.js";
import { Try } from "./try.js";
import { WhatIf } from "./whatif.js";
import { Why } from "./why.js";

const SCREENS = {
  try: ["Try", Try, "Choose some items as if somebody had taken them, or name a user: the list is what is recommended next."],
  why: ["Why", Why, "What each score is made of, and how the list moves when an item of the history is taken away."],
  whatif: ["What if", WhatIf, "Change the rules, and see the list with them beside the list without."],
  items: ["Items", Items, "Find an item and what goes with it, change it, or add a new one, which is recommended at once."],
  models: ["Models", Models, "Which model answers, how good it was measured to be, and which others could answer instead."],
  health: ["Health", Health, "How fast and how well lists were answered in the last hour."],
};
const FIRST = "try", THEMES = ["auto", "light", "dark"], THEME = "retort-theme";

function Page() {
  const [screen, setScreen] = useState(screenNow());
  const [loaded, setLoaded] = useState({});
  const [who, setWho] = useState({ kind: "history", userId: "", history: [] });
  const [edition, setEdition] = useState(0);
  useEffect(() => {
    const go = () => {
      if (takeKey()) location.reload();  // nothing that another key has brought stays
      else setScreen(screenNow());
    };
    addEventListener("hashchange", go);
    return () => removeEventListener("hashchange", go);
  }, []);
  useEffect(() => {
    load().then((found) => setLoaded(found), (error) => setLoaded({ error }));
  }, [edition]);
  const renew = () => setEdition(edition + 1);
  const [name, Screen, purpose] = SCREENS[screen];
  useEffect(() => {
    document.title = `${name} · Retort`;
  }, [screen]);
  return html`<a class="skip" href="#main" onClick=${toMain}>To the content</a>
    <header>
      <span class="name">Retort</span>
      <nav aria-label="screens">${Object.entries(SCREENS).map(([each, [title]]) => html`
        <a key=${each} href=${`#${each}`} aria-current=${each === screen ? "page" : null}>${title}</a>`)}</nav>
      <div class="tools"><a href="docs">API</a><${Theme} /><${Keys} error=${loaded.error} onDone=${renew} /></div>
    </header>
    <main id="main" tabindex="-1">
      <h1>${name}</h1>
      <p class="faint purpose">${purpose}</p>
      <${Trouble} error=${loaded.error} />
      ${loaded.model && html`<${Screen} key=${screen} ...${loaded} who=${who} setWho=${setWho} onModel=${renew} />`}
    </main>`;
}

function screenNow() {
  const asked = location.hash.slice(1);
  return asked in SCREENS ? asked : FIRST;
}

function toMain(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

/** Return what every screen needs: {abilities, model, budgetMs}. */
async function load() {
  const abilities = new Abilities(await ask("GET", "/openapi.json"));
  const model = await ask("GET", "/model");
  return { abilities, model, budgetMs: model.budget_ms };
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem(THEME) ?? THEMES[0]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem(THEME, theme);
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<button type="button" class="quiet" aria-label=${`colours: ${theme}; change to ${next}`}
    onClick=${() => setTheme(next)}>${{ auto: "Auto", light: "Light", dark: "Dark" }[theme]}</button>`;
}

/** The keys of this window. They are kept until it is closed, and sent to this service alone. */
function Keys({ error, onDone }) {
  const dialog = useRef(null);
  useEffect(() => {
    if (error?.needsKey && !dialog.current.open) dialog.current.showModal();
  }, [error]);
  const keep = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    for (const name of ["key", "admin"]) keepKey(name, form.get(name).trim());
    dialog.current.close();
    onDone();
  };
  return html`<button type="button" class="quiet" onClick=${() => dialog.current.showModal()}>Key</button>
    <dialog ref=${dialog} aria-label="Keys">
      <form onSubmit=${keep}>
        <h2>Keys</h2>
        <p class="faint">Kept in this window until it is closed, and sent to this service alone.</p>
        <${Field} label="Key" wide><input name="key" type="password" autocomplete="off" value=${givenKey("key")} /><//>
        <${Field} label="Admin key, for what changes things" wide><input name="admin" type="password" autocomplete="off"
          value=${givenKey("admin")} /><//>
        <div class="row"><button type="submit">Use them</button>
          <button type="button" class="quiet" onClick=${() => dialog.current.close()}>Leave it</button></div>
      </form>
    </dialog>`;
}

takeKey();
render(html`<${Page} />`, document.getElementById("page"));
