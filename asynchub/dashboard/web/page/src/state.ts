/**
 * What the reader looks at: in the address, so that it survives a reload, can be kept as a bookmark and be sent on.
 *
 * The address's fragment has it, which no server ever sees. The token that lets the page in comes the same way, as
 * `#t=…`; it is taken out of the address at once.
 */

import type { Axis } from "./contract";

export type Smoothing = "off" | "mean" | "ema";

export interface ViewState {
  /** Row id of the run whose facts are shown; "" for the first. */
  run: string;
  axis: Axis;
  /** What part of the axis is shown; null for all of it. */
  range: [number, number] | null;
  /** Whether the right edge goes with the newest step. */
  follow: boolean;
  log: boolean;
  /** Keys of the charts that are not as `log` says. */
  flipped: string[];
  fitAll: boolean;
  smoothing: Smoothing;
  /** Steps: the width of the window, or the half-life. */
  window: number;
  /** Which runs are listed. */
  filter: string;
  sort: string;
  /** Row ids that keep a colour. */
  pinned: string[];
  /** Which scalars "more charts" shows; null while it is closed. */
  keys: string | null;
  /** Key of the chart that is shown large. */
  large: string;
  /** A stopping rule to try. */
  rule: string;
  /** What stands in the place of the charts, if they do not. */
  view: View;
  /** The info by which runs are grouped; "" if each is drawn by itself. */
  group: string;
  /** Key of the scalar that the table of runs is about; "" for the first one of the run that is looked at. */
  tabled: string;
  /** The order of that table. */
  order: string;
  /** Which values of the scalar are better, "min" or "max"; "" as the run says it. */
  better: string;
}

export type View = "charts" | "table" | "varies";

export const VIEWS: readonly View[] = ["charts", "table", "varies"];
export const AXES: readonly Axis[] = ["step", "time", "relative", "epoch"];
export const WINDOW = 1000;

/** Returns what an address's fragment says; whatever it does not say, or says wrongly, is as at first. */
export function parse(fragment: string): ViewState {
  const said = new URLSearchParams(fragment.replace(/^#/, ""));
  const group = said.get("group") ?? "";
  const axis = (!group && AXES.find((one) => one === said.get("x"))) || "step"; // groups have no other one
  const [from, to] = (said.get("range") ?? "")
    .split("..")
    .map((text) => (text.trim() === "" ? Number.NaN : Number(text)));
  const [kind, steps] = (said.get("smooth") ?? "").split(":");
  const window = Number(steps);
  return {
    run: said.get("run") ?? "",
    axis,
    range: Number.isFinite(from) && Number.isFinite(to) && from! < to! ? [from!, to!] : null,
    follow: said.get("follow") !== "0",
    log: said.get("y") === "log",
    flipped: said.getAll("flip"),
    fitAll: said.get("fit") === "all",
    smoothing: kind === "mean" || kind === "ema" ? kind : "off",
    window: Number.isInteger(window) && window > 0 && window <= 1e12 ? window : WINDOW,
    filter: said.get("filter") ?? "",
    sort: said.get("sort") ?? "",
    pinned: said.getAll("pin"),
    keys: said.get("keys"),
    large: said.get("large") ?? "",
    rule: said.get("rule") ?? "",
    view: VIEWS.find((one) => one === said.get("view")) ?? "charts",
    group,
    tabled: said.get("of") ?? "",
    order: said.get("by") ?? "newest",
    better: said.get("better") ?? "",
  };
}

/** Returns the fragment of an address that says it. */
export function format(state: ViewState): string {
  const said = new URLSearchParams();
  if (state.run) said.set("run", state.run);
  if (state.axis !== "step") said.set("x", state.axis);
  if (state.range) said.set("range", state.range.map(brief).join(".."));
  if (!state.follow) said.set("follow", "0");
  if (state.log) said.set("y", "log");
  for (const key of state.flipped) said.append("flip", key);
  if (state.fitAll) said.set("fit", "all");
  if (state.smoothing !== "off") said.set("smooth", `${state.smoothing}:${state.window}`);
  if (state.filter) said.set("filter", state.filter);
  if (state.sort) said.set("sort", state.sort);
  for (const id of state.pinned) said.append("pin", id);
  if (state.keys !== null) said.set("keys", state.keys);
  if (state.large) said.set("large", state.large);
  if (state.rule) said.set("rule", state.rule);
  if (state.view !== "charts") said.set("view", state.view);
  if (state.group) said.set("group", state.group);
  if (state.tabled) said.set("of", state.tabled);
  if (state.order !== "newest") said.set("by", state.order);
  if (state.better) said.set("better", state.better);
  const text = said.toString();
  return text ? `#${text}` : "";
}

/** Tells whether the y axis of a chart is logarithmic. */
export function isLog(state: ViewState, key: string): boolean {
  return state.log !== state.flipped.includes(key);
}

/** Returns a list with something in it, or without it if it was there. */
export function toggled<T>(list: T[], one: T): T[] {
  return list.includes(one) ? list.filter((other) => other !== one) : [...list, one];
}

function brief(value: number): string {
  return String(Number(value.toPrecision(15)));
}

/** The state, and who wants to know of its changes. */
export class State {
  private current: ViewState;
  private past: Pick<ViewState, "range" | "follow">[] = [];
  private readonly told: ((now: ViewState, before: ViewState) => void)[] = [];

  constructor() {
    this.current = parse(location.hash);
    addEventListener("hashchange", () => this.apply(parse(location.hash)));
  }

  get now(): ViewState {
    return this.current;
  }

  onChange(tell: (now: ViewState, before: ViewState) => void): void {
    this.told.push(tell);
  }

  /** Changes some of it. */
  set(changes: Partial<ViewState>): void {
    this.apply({ ...this.current, ...changes });
  }

  /** Shows a part of the axis; `undo` takes it back. */
  zoom(range: [number, number] | null, follow: boolean): void {
    this.past = [...this.past.slice(-49), { range: this.current.range, follow: this.current.follow }];
    this.set({ range, follow });
  }

  /** Goes back to the part that was shown before; returns whether there was one. */
  undo(): boolean {
    const before = this.past.pop();
    if (before) this.set(before);
    return before !== undefined;
  }

  /** Lets go of the parts that were shown before: they are of another axis. */
  forget(): void {
    this.past = [];
  }

  private apply(next: ViewState): void {
    const before = this.current;
    this.current = next;
    const address = `${location.pathname}${location.search}${format(next)}`;
    try {
      if (format(next) !== location.hash) history.replaceState(null, "", address);
    } catch {
      // a browser takes a hundred changes in half a minute, or none of a page in a file: the next one says it all
    }
    for (const tell of this.told) tell(next, before);
  }
}
