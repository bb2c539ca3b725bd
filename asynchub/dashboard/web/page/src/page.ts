/**
 * The page: what it knows, what it asks for, and when it draws.
 *
 * Draws: once a frame at most, and only what has changed.
 * Asks: for the curves of the charts near the window, in as many buckets as they have pixels, of the part of the axis
 *     that is shown.
 */

import { type Look, stepsWanted } from "./asking";
import type { DrawnRun } from "./chart";
import type { GroupHead, Mark, RunList, RunRow, Screen } from "./contract";
import { byId } from "./dom";
import { Dialog } from "./dialogs";
import { pageFrame } from "./frame";
import { Grid, showNoCharts } from "./grid";
import { KeyList } from "./keylist";
import { showRun, showTop, Speaker } from "./head";
import { flagsOfMarks, flagsOfTrial } from "./flags";
import { MarkList } from "./marklist";
import { later } from "./later";
import type { Flag } from "./signs";
import {
  drawnRuns,
  groupsIn,
  lookOf,
  lookOfGroups,
  mainRun,
  MOST_DRAWN,
  MOST_GROUPED,
  type Source,
  type WhatIf,
} from "./model";
import type { Panel } from "./panel";
import { Pointing } from "./pointing";
import { Questions } from "./questions";
import { Reach, rounded, widened } from "./reach";
import { showRuns } from "./runs";
import { isLog, type State } from "./state";
import { showStory } from "./story";
import { palette } from "./theme";
import { lineInWords, type Offer, showFollow, showToolbar } from "./toolbar";
import { Curves, type Message } from "./wire";

type Part = "head" | "runs" | "tools" | "charts" | "curves" | "story" | "beside";

/** Milliseconds of a frame that news may take for drawing, and what the reader has asked for; the rest comes later. */
const [NEWS, ASKED] = [5, 40];
const URGENT = 500;

export class Page {
  list: RunList | null = null;
  screen: Screen | null = null;
  readonly dialog = new Dialog();
  readonly grid: Grid;
  tried: WhatIf | null = null;
  allAlerts = false;
  source!: Source;
  offer: Offer = {
    live: true,
    axes: ["step", "time", "relative", "epoch"],
    log: true,
    fit: true,
    smoothing: true,
    whatIf: false,
    more: true,
  };
  made = "";
  private readonly curves = new Curves();
  private readonly reach = new Reach();
  private readonly pointing = new Pointing(this);
  private readonly speaker = new Speaker();
  private readonly dirty = new Set<Part>();
  private readonly marks = new MarkList(() => this.change("curves"));
  private readonly keys = new KeyList();
  private readonly questions = new Questions(this, () => this.settle());
  private seen: number | null = null;
  private frame = 0;
  private waiting: Panel[] = [];
  private touched = 0;
  private wasBeside = false;

  constructor(readonly state: State) {
    byId("asynchub").append(...pageFrame());
    this.grid = new Grid(
      (panel) => this.pointing.on(panel),
      () => {
        this.change("curves");
        this.questions.soon();
      },
      (panel) => this.redraw(panel),
    );
    byId<HTMLInputElement>("filter").value = state.now.filter;
    byId<HTMLInputElement>("keys").value = state.now.keys ?? "";
    state.onChange((now, before) => {
      this.touched = performance.now();
      this.busy(true);
      if (now.axis !== before.axis || now.run !== before.run || now.filter !== before.filter || now.group !== before.group)
        this.forget();
      if (now.keys !== before.keys) void this.listKeys(0);
      if (now.follow !== before.follow || now.range !== before.range)
        this.seen = now.follow ? null : (this.shown?.status.step ?? null);
      this.change("head", "runs", "tools", "charts", "curves", "beside");
      this.questions.soon();
      this.findMarks();
    });
  }

  start(source: Source): void {
    this.source = source;
    document.body.classList.toggle("still", !source.live);
    document.body.classList.toggle("few", !this.offer.more);
    this.change("head", "runs", "tools", "charts", "story", "beside");
    source.start();
    this.questions.soon();
    if (this.state.now.keys !== null) void this.listKeys(0);
  }

  // --- what comes

  readonly listener = {
    rows: (list: RunList) => this.takeRows(list),
    screen: (screen: Screen) => this.takeScreen(screen),
    curves: (message: Message) => this.takeCurves(message),
  };

  takeRows(list: RunList): void {
    const before = this.main;
    this.list = list;
    if (this.source.live) this.offer = { ...this.offer, whatIf: list.what_if };
    this.change("head", "runs", "tools", "curves", "beside");
    if (this.main !== before) this.findMarks();
  }

  takeScreen(screen: Screen): void {
    if (screen.row.id !== this.main) return;
    const other = this.screen?.row.id !== screen.row.id;
    const more = screen.marks_total !== this.screen?.marks_total;
    this.screen = screen;
    this.speaker.take(screen);
    this.dialog.follow?.(screen);
    this.change("head", "story", "charts", "beside"); // and with the charts what follows the newest step
    if (other) this.change("runs");
    if (other && this.state.now.keys !== null && this.keys.run !== this.main) void this.listKeys(0);
    if (other || more) this.findMarks();
  }

  takeCurves(message: Message): void {
    try {
      this.curves.take(message);
    } catch (error) {
      console.warn("asynchub:", error);
      this.questions.again();
      return;
    }
    const keys = this.questions.take(message);
    if (keys) this.curves.keep(keys);
    this.learn();
    this.change("curves", ...(this.state.now.group ? (["runs"] as const) : []));
  }

  // --- what is shown

  get main(): string {
    return mainRun(this.list, this.state.now.run);
  }

  get rows(): [RunRow[], Set<string>] {
    const { pinned, group } = this.state.now;
    return drawnRuns(this.list, this.main, pinned, this.screen, group ? MOST_GROUPED : MOST_DRAWN);
  }

  /** The part of the axis that is shown; null as long as nothing is known of it. */
  get view(): [number, number] | null {
    const { range, follow } = this.state.now;
    if (range === null) return this.reach.all && widened(this.reach.all);
    const end = this.newest;
    if (!follow || end === null || end <= range[1]) return range;
    const isFromStart = this.reach.own !== null && range[0] <= this.reach.own[0];
    return isFromStart ? [range[0], end] : [range[0] + end - range[1], end];
  }

  /** Where the newest of the run is that is looked at. */
  get newest(): number | null {
    const { axis } = this.state.now;
    const end = this.reach.own?.[1] ?? (axis === "step" ? null : (this.reach.all?.[1] ?? null));
    const step = axis === "step" && this.shown ? this.shown.status.step : null;
    return end === null || step === null ? (end ?? step) : Math.max(end, step);
  }

  /** The first screen of the run that is looked at; null until it has come. */
  get shown(): Screen | null {
    return this.screen?.row.id === this.main ? this.screen : null;
  }

  get whole(): [number, number] | null {
    return this.reach.all;
  }

  /** How far the run reaches that is looked at. */
  get own(): [number, number] | null {
    const [low, high] = [this.reach.own?.[0] ?? (this.state.now.axis === "step" ? 0 : null), this.newest];
    return low === null || high === null ? null : widened([low, high]);
  }

  /** Shows a part of the axis. */
  zoom(range: [number, number] | null): void {
    if (range && !(range[1] > range[0])) return;
    this.state.zoom(range && rounded(range), range === null || range[1] >= (this.newest ?? Number.POSITIVE_INFINITY));
  }

  /** Shows the steps around something. */
  zoomToSteps(start: number, stop: number): void {
    const around = Math.max(10, Math.round((stop - start) * 1.5), Math.round(stepsIn(this.screen) / 200));
    const ends = [start - around, stop + around].map((step) => this.reach.places.place(this.main, step, null));
    if (ends[0] !== null && ends[1] !== null) this.zoom([ends[0]!, ends[1]!]);
  }

  change(...parts: Part[]): void {
    for (const part of parts) this.dirty.add(part);
    if (!this.frame) this.frame = requestAnimationFrame(() => this.show());
  }

  /** Draws all charts anew, in other colours. */
  recolour(): void {
    this.change("head", "runs", "curves");
  }

  decisions(): Mark[] {
    return this.marks.all(this.screen);
  }

  async listKeys(start: number): Promise<void> {
    if (await this.keys.list(this.source, this.main, this.state.now.keys, start)) this.change("charts");
  }

  moreKeys(): void {
    void this.listKeys(this.keys.rows.length);
  }

  /** The groups that are drawn, by their ids; none if each run is drawn by itself. */
  get groups(): Map<string, GroupHead> {
    return groupsIn(this.curves);
  }

  /** The runs, or groups of them, as they are drawn, from back to front. */
  drawn(): DrawnRun[] {
    if (this.state.now.group) return lookOfGroups(this.groups);
    return lookOf(...this.rows, this.main);
  }

  private show(): void {
    this.frame = 0;
    const dirty = new Set(this.dirty);
    this.dirty.clear();
    const { now } = this.state;
    const screen = this.shown;
    if (dirty.has("head")) {
      showTop(this.list, screen, this.source.live, this.made);
      showRun(this.list, screen, this.screen !== null, this.allAlerts);
    }
    if (dirty.has("runs")) {
      const [rows, coloured] = this.rows;
      showRuns(this.list, screen, now, this.main, rows, coloured, this.groups);
    }
    if (dirty.has("tools")) showToolbar(now, this.offer, this.list?.groups ?? []);
    if (dirty.has("story")) showStory(screen);
    if (dirty.has("beside")) this.showBeside();
    if (dirty.has("charts")) {
      const line = lineInWords(now);
      const isOpen = now.keys !== null;
      const further = isOpen ? this.keys.rows.map((row) => row.key) : [];
      this.grid.show((screen ?? this.screen)?.charts ?? [], further, line);
      this.grid.count(this.keys, isOpen, screen?.keys ?? 0);
      this.grid.enlarge(now.large);
      showNoCharts(screen && !screen.charts.length ? "This run has no scalars so far." : "");
      dirty.add("curves");
    }
    if (dirty.has("curves")) {
      const before = this.waiting.filter((panel) => panel.near); // first, or news of the others would keep them waiting
      this.waiting = [...before, ...this.grid.near.filter((panel) => !before.includes(panel))];
      const step = screen?.status.step ?? null;
      if (!now.follow && this.seen === null) this.seen = step;
      showFollow(now, step === null || this.seen === null ? 0 : Math.max(0, step - this.seen), this.goesOn(screen));
      this.questions.soon();
    }
    this.drawSome();
    if (!this.source.live) this.settle(); // nothing else comes that would say so
  }

  /** Shows what stands in the place of the charts, if something does. */
  private showBeside(): void {
    const isBeside = this.source.live && this.state.now.view !== "charts";
    document.body.classList.toggle("beside", isBeside);
    byId("beside").hidden = !isBeside;
    if (isBeside || this.wasBeside)
      later().then(
        (more) => more.showBeside(this),
        (error: Error) => (byId("beside").textContent = error.message),
      );
    this.wasBeside = isBeside;
  }

  /** Draws the charts that wait for it, as many as there is time for in a frame. */
  private drawSome(): void {
    if (!this.waiting.length) return;
    const [drawn, flags, colours, began] = [this.drawn(), this.flags(), palette(), performance.now()];
    let most = began - this.touched < URGENT ? ASKED : NEWS;
    do {
      const panel = this.waiting.shift();
      const before = panel?.chart;
      if (panel) this.drawPanel(panel, drawn, flags, colours);
      if (panel?.chart && !before) most = ASKED; // who sees it for the first time waits for it
    } while (this.waiting.length && performance.now() - began < most);
    if (this.waiting.length && !this.frame) this.frame = requestAnimationFrame(() => this.show());
  }

  /** Whether more may come of a run. */
  private goesOn(screen: Screen | null): boolean {
    return this.source.live && ["running", "silent", "stopping", "unknown"].includes(screen?.status.state ?? "");
  }

  /** Says that the charts are not yet those that were asked for, or that they are. */
  private busy(is: boolean): void {
    byId("charts").setAttribute("aria-busy", String(is));
  }

  private redraw(panel: Panel): void {
    this.drawPanel(panel, this.drawn(), this.flags(), palette());
    this.questions.soon();
  }

  private drawPanel(panel: Panel, runs: DrawnRun[], flags: Flag[], colours: ReturnType<typeof palette>): void {
    const { now } = this.state;
    panel.showLog(this.canFlip(panel.key) ? isLog(now, panel.key) : null);
    panel.draw({
      data: this.curves.charts.get(panel.key),
      runs,
      axis: now.axis,
      range: this.view,
      flags: flags.filter((flag) => !flag.mark?.key || flag.mark.key === panel.key),
      palette: colours,
      smoothing: now.smoothing,
    });
  }

  /** Tells whether the y axis of a chart can be chosen for it alone. */
  canFlip(key: string): boolean {
    return this.offer.log && this.source.hasBoth(key);
  }

  private flags(): Flag[] {
    if (this.state.now.group) return []; // they are of single runs
    const [{ places }, drawn] = [this.reach, this.drawn()];
    return [
      ...flagsOfMarks(this.decisions(), places, this.main, drawn),
      ...flagsOfTrial(this.tried, places, drawn),
    ];
  }

  // --- what is asked for

  get look(): Look {
    const near = this.grid.near;
    return {
      state: this.state.now,
      live: this.source.live,
      main: this.main,
      runs: this.rows[0].map((row) => row.id),
      keys: near.map((panel) => panel.key),
      pixels: Math.max(0, ...near.map((panel) => panel.pixels)),
      view: this.view,
      newest: this.newest,
      places: this.reach.places,
    };
  }

  /** Says that the charts are those that were asked for, if they are. */
  private settle(): void {
    if (this.questions.isAnswered && !this.waiting.length && !this.frame) this.busy(false);
  }

  private findMarks(): void {
    this.marks.findSoon(() => ({ source: this.source, screen: this.shown, part: stepsWanted(this.look) }));
  }

  private forget(): void {
    this.reach.forget();
    this.learn();
  }

  private learn(): void {
    this.reach.learn(this.curves, this.state.now.axis, new Set(this.drawn().map((run) => run.id)), this.main);
  }
}

function stepsIn(screen: Screen | null): number {
  return screen?.status.step ?? 0;
}
