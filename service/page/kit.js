// What the screens are made of: Preact with htm, and small parts that several of them use.

import { h, render } from "./vendor/preact.js";
import { useCallback, useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { render, useCallback, useEffect, useMemo, useRef, useState };

/** Return a number as it is read: few digits, and a thin space between thousands. */
export function shown(number, digits = 2) {
  if (number === null || number === undefined || Number.isNaN(number)) return "–";
  const options = Number.isInteger(number) ? {} : { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return number.toLocaleString("en", options);
}

/** Return a moment, Unix seconds or ISO 8601, as a short local time. */
export const moment = (at) => new Date(typeof at === "number" ? at * 1000 : at).toLocaleString();

/** Return what a promise of the latest change gives: {value, error, isBusy}; an earlier one that comes late is dropped.
 * load: (signal) => promise, or null for none. */
export function useLoaded(load, changes) {
  const [state, setState] = useState({ value: null, error: null, isBusy: false });
  useEffect(() => {
    if (!load) return undefined;
    const controller = new AbortController();
    setState((before) => ({ ...before, isBusy: true }));
    load(controller.signal).then(
      (value) => controller.signal.aborted || setState({ value, error: null, isBusy: false }),
      (error) => controller.signal.aborted || setState({ value: null, error, isBusy: false }),
    );
    return () => controller.abort();
  }, changes);
  return state;
}

/** Return a value once it has been the same for a while, so that each keystroke asks nothing. */
export function useSettled(value, ms = 200) {
  const [settled, setSettled] = useState(value);
  const text = JSON.stringify(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

/** Call something at once and then every so often, while the page is seen. */
export function usePolling(call, everyMs, changes = []) {
  useEffect(() => {
    let timer = null;
    const run = () => {
      clearTimeout(timer);
      if (document.hidden) return;
      call();
      timer = setTimeout(run, everyMs);
    };
    document.addEventListener("visibilitychange", run);
    run();
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", run);
    };
  }, changes);
}

/** A part of a screen with a heading. */
export const Part = ({ title, name, aside, children }) => html`
  <section class="part" id=${name} aria-label=${title}>
    <div class="part-head"><h2>${title}</h2>${aside}</div>
    ${children}
  </section>`;

/** A control with its label. */
export const Field = ({ label, children, wide }) => html`
  <label class=${wide ? "field wide" : "field"}><span>${label}</span>${children}</label>`;

/** What went wrong, said so that somebody can do something about it. */
export function Trouble({ error }) {
  if (!error) return null;
  const hint = error.needsKey ? " Give a key by the button at the top." : "";
  return html`<p class="trouble" role="alert"><strong>${error.code ?? "error"}</strong> ${error.message}${hint}</p>`;
}

/** A button that copies a text. */
export function Copy({ text, label = "Copy" }) {
  const [isDone, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>${isDone ? "Copied" : label}</button>`;
}

/** A horizontal bar of several pieces: [{name, value, text}], out of a whole. */
export const Pieces = ({ pieces, whole, label }) => html`
  <div class="pieces" role="img" aria-label=${label}>
    ${pieces.map(({ name, value, text }, place) => html`
      <span key=${name} class=${`piece tone-${place % 8}`} title=${text ?? `${name} ${shown(value)}`}
        style=${{ width: `${Math.min(100, (100 * value) / whole)}%` }}></span>`)}
  </div>`;
