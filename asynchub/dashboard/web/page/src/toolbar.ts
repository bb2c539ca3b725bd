/** What the reader can change of all charts at once. */

import type { Axis } from "./contract";
import { byId, cut, h, morph } from "./dom";
import { whole } from "./format";
import type { ViewState } from "./state";

const AXIS_NAMES: [Axis, string][] = [
  ["step", "Step"],
  ["time", "Time"],
  ["relative", "Relative"],
  ["epoch", "Epoch"],
];

/** What can be chosen: of an exported page, what it has in itself. */
export interface Offer {
  live: boolean;
  axes: Axis[];
  log: boolean;
  fit: boolean;
  smoothing: boolean;
  whatIf: boolean;
  /** Whether there are more charts to be found. */
  more: boolean;
}

export function toolbarFrame(): HTMLElement {
  return h("div", { id: "tools", class: "tools", role: "group", "aria-label": "All charts" });
}

export function showToolbar(state: ViewState, offer: Offer, groups: string[]): void {
  const press = (action: string, arg: string, text: string, on: boolean, title: string) =>
    h("button", { type: "button", "data-do": action, "data-arg": arg, "aria-pressed": String(on), title }, text);
  const tool = (action: string, text: string, title: string, arg = "") =>
    h("button", { type: "button", "data-do": action, "data-arg": arg, title }, text);
  morph(byId("tools"), [
    h(
      "span",
      { class: "seg", role: "group", "aria-label": "X axis" },
      ...AXIS_NAMES.filter(([axis]) => (state.group ? axis === "step" : offer.axes.includes(axis))).map(([axis, name]) =>
        press("axis", axis, name, state.axis === axis, `X axis: ${name.toLowerCase()} (x)`),
      ),
    ),
    offer.log
      ? h(
          "span",
          { class: "seg", role: "group", "aria-label": "Y axis" },
          press("log", "", "Linear", !state.log, "Y axis of all charts: linear (L)"),
          press("log", "1", "Log", state.log, "Y axis of all charts: logarithmic (L)"),
        )
      : null,
    offer.fit ? press("fit", "", "Fit all", state.fitAll, "Cut nothing off: fit the y axis to all values (y)") : null,
    offer.smoothing ? smoothing(state) : null,
    offer.live && (groups.length || state.group) ? grouping(state.group, groups) : null,
    h(
      "span",
      { class: "seg", role: "group", "aria-label": "Part of the x axis" },
      h(
        "button",
        { type: "button", "data-do": "pan", "data-arg": "-1", "aria-label": "Earlier", title: "Earlier (h)" },
        "◀",
      ),
      h(
        "button",
        { type: "button", "data-do": "scale", "data-arg": "0.5", "aria-label": "Zoom in", title: "Zoom in (+)" },
        "+",
      ),
      h(
        "button",
        { type: "button", "data-do": "scale", "data-arg": "2", "aria-label": "Zoom out", title: "Zoom out (-)" },
        "−",
      ),
      h(
        "button",
        { type: "button", "data-do": "pan", "data-arg": "1", "aria-label": "Later", title: "Later (l)" },
        "▶",
      ),
      h("button", { type: "button", "data-do": "own", title: "The steps of this run (r)" }, "Run"),
      h(
        "button",
        {
          type: "button",
          "data-do": "whole",
          title: "The steps of all runs (g)",
          "aria-pressed": String(state.range === null),
        },
        "Whole",
      ),
    ),
    h("span", { class: "space" }),
    offer.whatIf ? tool("what-if", "What if…", "Try a stopping rule on these runs (w)") : null,
    tool("export", "Export…", "A picture or a page to keep (e)"),
  ]);
  const select = byId("tools").querySelector<HTMLSelectElement>("#smoothing");
  if (select && select.value !== state.smoothing) select.value = state.smoothing;
  const group = byId("tools").querySelector<HTMLSelectElement>("#group");
  if (group && group.value !== state.group) group.value = state.group;
  const steps = byId("tools").querySelector<HTMLInputElement>("#window");
  if (steps && document.activeElement !== steps && steps.value !== String(state.window))
    steps.value = String(state.window);
}

function grouping(now: string, names: string[]): HTMLElement {
  const all = names.includes(now) || !now ? names : [now, ...names];
  return h(
    "select",
    { id: "group", "aria-label": "Groups of runs", title: "One curve for all runs that said the same (b)" },
    h("option", { value: "" }, "each run"),
    ...all.map((name) => h("option", { value: name }, `by ${cut(name, 30)}`)),
  );
}

function smoothing(state: ViewState): HTMLElement {
  const off = state.smoothing === "off";
  return h(
    "span",
    { class: "smooth" },
    h(
      "select",
      { id: "smoothing", "aria-label": "Smoothing", title: "Smoothing, drawn over the raw range (s)" },
      h("option", { value: "off" }, "no smoothing"),
      h("option", { value: "mean" }, "mean of the last"),
      h("option", { value: "ema" }, "EMA, half-life"),
    ),
    off
      ? null
      : h("input", {
          id: "window",
          type: "number",
          min: 1,
          step: 1,
          "aria-label": "Steps to smooth over",
          list: "windows",
        }),
    off ? null : h("span", { class: "mute" }, "steps"),
    off
      ? null
      : h("datalist", { id: "windows" }, ...[10, 100, 1000, 10_000, 100_000].map((value) => h("option", { value }))),
  );
}

/** Says what the line of charts is, in few words. */
export function lineInWords(state: ViewState): string {
  const line = { off: "", mean: `mean of the last ${whole(state.window)} steps`, ema: `EMA, half-life ${whole(state.window)} steps` };
  const group = state.group ? `means of runs by ${cut(state.group, 30)}` : "";
  return [group, line[state.smoothing]].filter(Boolean).join(" · ");
}

/** Shows how much has come since the reader stopped to follow. */
export function showFollow(state: ViewState, fresh: number, live: boolean): void {
  const pill = byId<HTMLButtonElement>("follow");
  pill.hidden = !live || state.follow || state.range === null;
  const text = fresh > 0 ? `${whole(fresh)} new ${fresh === 1 ? "step" : "steps"} →` : "Follow the newest →";
  if (pill.textContent !== text) pill.textContent = text;
}
