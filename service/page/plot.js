// Lines over the last hour, drawn by uPlot, which is fetched when the first of them is shown.

import { html, useEffect, useRef } from "./kit.js";

const HEIGHT = 170;

/** at: Unix seconds. lines: [{name, values, color}], color: the name of a CSS variable. */
export function Plot({ at, lines, unit, summary }) {
  const place = useRef(null), chart = useRef(null);
  const data = [at, ...lines.map(({ values }) => values)];
  useEffect(() => {
    let isGone = false;
    const watch = new ResizeObserver(() => chart.current?.setSize(sizeOf(place.current)));
    import("./vendor/uplot.js").then(({ default: UPlot }) => {
      if (isGone) return;
      chart.current = new UPlot(optionsOf(place.current, lines, unit), place.current.latest ?? data, place.current);
      watch.observe(place.current);
    });
    return () => {
      isGone = true;
      watch.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, []);
  useEffect(() => {
    place.current.latest = data;
    chart.current?.setData(data);
  });
  return html`<div class="plot" ref=${place} role="img" aria-label=${summary}></div>`;
}

const sizeOf = (element) => ({ width: Math.max(200, element.clientWidth), height: HEIGHT });

function optionsOf(element, lines, unit) {
  const tone = (name) => () => getComputedStyle(element).getPropertyValue(name).trim();
  const axis = { stroke: tone("--faint"), grid: { stroke: tone("--line"), width: 1 }, ticks: { show: false } };
  const format = (_, values) => values.map((value) => `${value}${unit}`);
  return {
    ...sizeOf(element),
    cursor: { y: false },
    legend: { live: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1e-3) * 1.1] } },
    axes: [axis, { ...axis, size: 64, values: format }],
    series: [{}, ...lines.map(({ name, color }) => ({ label: name, stroke: tone(color), width: 2, spanGaps: false }))],
  };
}
