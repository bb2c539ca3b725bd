/** What clicks, inputs and keys do. */

import { Chart } from "./chart";
import type { Mark } from "./contract";
import { byId } from "./dom";
import { later, type More } from "./later";
import type { Page } from "./page";
import { AXES, toggled, VIEWS } from "./state";
import { turnTheme } from "./theme";

const FILTER_AFTER = 200;

export class Actions {
  private filtering = 0;
  private lastAlert = -1;
  private lastMark = -1;
  private cursor: number | null = null;

  constructor(private readonly page: Page) {
    document.addEventListener("click", (event) => {
      const target = (event.target as Element).closest<HTMLElement>("[data-do]");
      if (target) this.run(target.dataset.do!, target.dataset.arg ?? "", target);
    });
    document.addEventListener("change", (event) => this.changed(event.target as HTMLInputElement));
    document.addEventListener("input", (event) => this.typed(event.target as HTMLInputElement));
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("focusout", () => (this.cursor = null));
  }

  private run(action: string, arg: string, target: Element): void {
    const { page } = this;
    const { state, dialog } = page;
    const { now } = state;
    const actions: Record<string, () => void> = {
      "all-alerts": () => ((page.allAlerts = !page.allAlerts), page.change("head")),
      "all-keys": () => state.set({ keys: now.keys === null ? "" : null }),
      "forget-rule": () => ((page.tried = null), state.set({ rule: "" }), dialog.close()),
      "order-by": () => state.set({ order: arg }),
      mark: () => this.showMark(page.decisions().find((mark) => String(mark.seq) === arg)),
      "more-keys": () => page.moreKeys(),
      "try-rule": () => this.more((more) => more.tryRule(page)),
      "what-if": () => this.more((more) => more.whatIf(page)),
      "why-not": () => dialog.words("Steering", page.screen?.steering ?? ""),
      "zoom-there": () => this.zoomThere(JSON.parse(arg)),
      ask: () => this.more((more) => more.ask(page, arg)),
      axis: () => this.setAxis(AXES.find((one) => one === arg) ?? "step"),
      close: () => dialog.close(),
      export: () => this.more((more) => more.exports(page)),
      fit: () => state.set({ fitAll: !now.fitAll }),
      follow: () => this.follow(true),
      help: () => this.more((more) => more.help(page)),
      large: () => this.enlarge(page.grid.find(target)?.key ?? ""),
      log: () => state.set({ log: arg === "1", flipped: [] }),
      flip: () => this.flip(page.grid.find(target)?.key ?? ""),
      own: () => page.zoom(page.own),
      page: () => this.more((more) => more.savePage(page)),
      pan: () => this.pan(Number(arg)),
      picture: () => this.more((more) => more.savePicture(page, Chart)),
      pin: () => this.pin(arg),
      run: () => state.set({ run: arg }),
      scale: () => this.scale(Number(arg)),
      better: () => state.set({ better: arg === now.better ? "" : arg }),
      steer: () => this.steer(arg),
      theme: () => (turnTheme(), page.recolour()),
      unlock: () => this.unlock(),
      view: () => this.show(arg),
      whole: () => page.zoom(null),
    };
    actions[action]?.();
  }

  private changed(target: HTMLInputElement): void {
    const { state } = this.page;
    if (target.id === "sort") state.set({ sort: target.value });
    if (target.id === "smoothing")
      state.set({ smoothing: target.value === "mean" || target.value === "ema" ? target.value : "off" });
    if (target.id === "window" && Number.isInteger(Number(target.value)) && Number(target.value) > 0)
      state.set({ window: Number(target.value) });
    if (target.id === "group") this.group(target.value);
    if (target.id === "table-key") state.set({ tabled: target.value });
    if (target.id === "ask-name") this.steer(`set/${target.value}`);
  }

  private typed(target: HTMLInputElement): void {
    if (target.id !== "filter" && target.id !== "keys") return;
    clearTimeout(this.filtering);
    this.filtering = window.setTimeout(() => {
      const { state } = this.page;
      if (target.id === "filter") state.set({ filter: target.value });
      else state.set({ keys: target.value === "" ? null : target.value });
    }, FILTER_AFTER);
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = target.matches("input, select, textarea") && !target.closest("dialog:not([open])");
    if (event.key === "Escape") {
      if (this.page.dialog.open) return; // it closes by itself
      if (isTyping) target.blur();
      else this.back();
      return;
    }
    if (event.key === "Enter" && isTyping) {
      if (target.id === "rule") this.more((more) => more.tryRule(this.page));
      if (target.id === "token") this.unlock();
      if (target.id === "ask-value" || target.id === "ask-reason")
        document.querySelector<HTMLElement>("#ask-buttons [data-do=ask]")?.click();
      return;
    }
    if (isTyping || this.page.dialog.open) return;
    if (event.key === "Enter" && target.matches(".chart")) {
      this.enlarge(this.page.grid.find(target)?.key ?? "");
      return;
    }
    if (event.key.startsWith("Arrow") && target.matches(".chart")) {
      if (this.read(target, event.key)) event.preventDefault();
      return;
    }
    const { state, grid, offer, source } = this.page;
    const { now } = state;
    const next = <T>(all: readonly T[], one: T): T => all[(all.indexOf(one) + 1) % all.length]!;
    const keys: Record<string, () => void> = {
      "/": () => byId("filter").focus(),
      "?": () => this.more((more) => more.help(this.page)),
      "+": () => this.scale(0.5),
      "=": () => this.scale(0.5),
      "-": () => this.scale(2),
      C: () => this.steer("checkpoint/"),
      L: () => offer.log && state.set({ log: !now.log, flipped: [] }),
      P: () => this.steer(this.offers("resume") ? "resume/" : "pause/"),
      R: () => this.steer("set/lr"),
      S: () => this.steer("stop/"),
      V: () => this.steer("set/"),
      a: () => this.nextAlert(),
      b: () => source.live && this.group(next(["", ...(this.page.list?.groups ?? [])], now.group)),
      c: () => byId("keys").focus(),
      d: () => (turnTheme(), this.page.recolour()),
      e: () => this.more((more) => more.exports(this.page)),
      f: () => this.follow(!now.follow),
      g: () => this.page.zoom(null),
      h: () => this.pan(-1),
      j: () => this.step(1),
      k: () => this.step(-1),
      l: () => this.pan(1),
      m: () => this.nextMark(),
      o: () => this.flip(grid.find(target)?.key ?? ""),
      p: () => this.pin(this.page.main),
      r: () => this.page.zoom(this.page.own),
      s: () => offer.smoothing && state.set({ smoothing: next(["off", "mean", "ema"] as const, now.smoothing) }),
      t: () => this.show("table"),
      v: () => this.show("varies"),
      w: () => offer.whatIf && this.more((more) => more.whatIf(this.page)),
      x: () => this.setAxis(next(offer.axes, now.axis)),
      y: () => offer.fit && state.set({ fitAll: !now.fitAll }),
      z: () => state.undo(),
    };
    const place = "123456789".indexOf(event.key);
    if (place >= 0 && event.key.length === 1) {
      const id = document.querySelectorAll<HTMLElement>("#runs-list .run")[place]?.dataset.id;
      if (id) state.set({ run: id });
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]!();
    }
  }

  private back(): void {
    const { state } = this.page;
    if (state.now.view !== "charts") this.show("charts");
    else if (state.now.large) state.set({ large: "" });
    else state.undo();
  }

  /** Makes the y axis of one chart logarithmic, or linear again. */
  private flip(key: string): void {
    const { state } = this.page;
    if (key && this.page.canFlip(key)) state.set({ flipped: toggled(state.now.flipped, key) });
  }

  /** Shows the charts, or something else in their place; what is shown already makes room for the charts again. */
  private show(what: string): void {
    const { state, source } = this.page;
    const view = VIEWS.find((one) => one === what) ?? "charts";
    if (source.live) state.set({ view: view === state.now.view ? "charts" : view });
  }

  /** Draws groups of runs that said the same of an info; "" draws the runs. */
  private group(name: string): void {
    const { state } = this.page;
    state.set(name && state.now.axis !== "step" ? { group: name, axis: "step", range: null, follow: true } : { group: name });
  }

  /** Moves the focus to the next chart, or run of a table, or to the one before. */
  private step(by: 1 | -1): void {
    const { grid, state } = this.page;
    if (state.now.view === "charts") grid.step(by);
    else this.more((more) => more.step(by));
  }

  // --- the x axis

  private setAxis(axis: (typeof AXES)[number]): void {
    const { state } = this.page;
    if (axis === state.now.axis || state.now.group) return; // of groups there is only the step axis
    state.forget();
    state.set({ axis, range: null, follow: true });
  }

  private pan(by: number): void {
    const { view, whole } = this.page;
    if (!view || !whole) return;
    const size = view[1] - view[0];
    const low = Math.max(whole[0], Math.min(whole[1] - size, view[0] + (size / 4) * by));
    if (size < whole[1] - whole[0]) this.page.zoom([low, low + size]);
  }

  private scale(factor: number): void {
    const { view, whole, newest } = this.page;
    if (!view) return;
    const half = ((view[1] - view[0]) * factor) / 2;
    // at the right edge it stays there, so that zooming in does not stop to follow
    const isAtEnd =
      newest !== null && view[1] >= newest && this.page.state.now.range !== null && this.page.state.now.follow;
    const end = isAtEnd ? view[1] : (view[0] + view[1]) / 2 + half;
    const next: [number, number] = [end - 2 * half, end];
    this.page.zoom(whole && factor > 1 && next[0] <= whole[0] && next[1] >= whole[1] ? null : next);
  }

  private follow(on: boolean): void {
    const { state, view, newest } = this.page;
    if (!view || newest === null) return;
    if (!on) state.set({ follow: false, range: state.now.range ?? view });
    else if (state.now.range === null) state.set({ follow: true });
    else state.zoom([newest - (view[1] - view[0]), newest], true);
  }

  private zoomThere(there: { key: string; start: number; stop: number }): void {
    this.page.zoomToSteps(there.start, there.stop);
    const panel = this.page.grid.all.find((one) => one.key === there.key);
    if (panel) panel.root.focus();
    else if (there.key) this.page.state.set({ keys: there.key });
  }

  private nextAlert(): void {
    const places = [...document.querySelectorAll<HTMLElement>("#alerts [data-do=zoom-there]")];
    if (!places.length) return;
    this.lastAlert = (this.lastAlert + 1) % places.length;
    this.zoomThere(JSON.parse(places[this.lastAlert]!.dataset.arg!));
  }

  private nextMark(): void {
    const marks = this.page.decisions().filter((mark) => mark.step !== null);
    if (!marks.length) return;
    this.lastMark = (this.lastMark + 1) % marks.length;
    const step = marks[this.lastMark]!.step!;
    this.page.zoomToSteps(step, step);
  }

  private showMark(mark: Mark | undefined): void {
    if (!mark) return;
    if (mark.step !== null) this.page.zoomToSteps(mark.step, mark.step);
    this.page.dialog.mark(mark);
  }

  /** Moves the crosshair of a chart by a key; returns whether it did. */
  private read(target: Element, key: string): boolean {
    const { view } = this.page;
    const chart = this.page.grid.find(target)?.chart;
    if (!view || !chart || (key !== "ArrowLeft" && key !== "ArrowRight")) return false;
    const step = (view[1] - view[0]) / 50;
    const at = this.cursor ?? (key === "ArrowLeft" ? view[1] + step : view[0] - step);
    this.cursor = Math.max(view[0], Math.min(view[1], at + (key === "ArrowLeft" ? -step : step)));
    chart.point(this.cursor);
    return true;
  }

  // --- runs and charts

  private pin(id: string): void {
    const { state } = this.page;
    if (!id) return;
    state.set({ pinned: toggled(state.now.pinned, id) });
  }

  private enlarge(key: string): void {
    const { state } = this.page;
    state.set({ large: state.now.large === key ? "" : key });
  }

  // --- what asks the server

  private unlock(): void {
    const field = document.querySelector<HTMLInputElement>("#token");
    if (!field?.value) return;
    this.page.dialog.close();
    this.page.source.unlock(field.value);
  }

  private offers(word: string): boolean {
    return Boolean(this.page.screen?.steerable.some((one) => one.word === word));
  }

  private steer(arg: string): void {
    if (this.page.source.live) this.more((more) => more.steer(this.page, arg));
  }

  /** Does something with the rest of the page, which is fetched when that is first wanted. */
  private more(run: (more: More) => void): void {
    later().then(run, (error: Error) => this.page.dialog.words("This cannot be shown", error.message));
  }
}
