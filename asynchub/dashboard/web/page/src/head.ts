/** The top of the page: is it alive, why will it stop, what limits its speed, what is wrong. */

import type { Level, Line, RunList, Screen } from "./contract";
import { byId, type Child, cut, h, morph } from "./dom";
import { whole } from "./format";
import { nameOf } from "./naming";
import { chosen } from "./theme";

const SHOWN_ALERTS = 3;
const SPOKEN_EACH = 10;
const NO_RUN = "There is no run here yet. It is shown as soon as there is one.";
const ICONS: Record<Level, string> = { good: "●", plain: "", quiet: "", warn: "▲", bad: "▲" };
const DOTS = {
  running: "●",
  silent: "◌",
  stopping: "◐",
  stopped: "■",
  finished: "✓",
  crashed: "✕",
  unknown: "?",
} as const;

/** Makes the places that are filled below. */
export function headFrame(): HTMLElement[] {
  return [
    h("header", { id: "top", class: "top" }),
    h("p", { id: "trouble", class: "trouble", role: "status", hidden: true }),
    h("section", { id: "answers", class: "answers", "aria-label": "How the run is" }),
    h("section", { id: "alerts", class: "alerts", "aria-label": "What is wrong" }),
    h("div", { id: "spoken", class: "unseen", "aria-live": "polite" }),
  ];
}

export function showTop(list: RunList | null, screen: Screen | null, live: boolean, made: string): void {
  const rows = list ? list.rows.length : 0;
  const all = rows + (list?.more ?? 0);
  const folder = list?.folder ? `${cut(list.folder, 80)} · ` : "";
  const where = list
    ? `${folder}${whole(rows)}${all > rows ? ` of ${whole(all)}` : ""} ${all === 1 ? "run" : "runs"}`
    : "";
  morph(byId("top"), [
    h("h1", { class: "brand" }, logo(), "asynchub"),
    h("span", { class: "where mute" }, where),
    h("span", { class: "space" }),
    live ? steering(list, screen) : h("span", { class: "mute" }, `as it was ${made}`),
    h(
      "span",
      { class: "ends" },
      h(
        "button",
        { type: "button", "data-do": "theme", "aria-label": `Colours: ${chosen()}`, title: `Colours: ${chosen()}` },
        "◐",
      ),
      h("button", { type: "button", "data-do": "help", "aria-label": "Help: keys", title: "Keys (?)" }, "?"),
    ),
  ]);
}

/**
 * Shows how the run is, and what is wrong with it. Of one that was just chosen nothing is here yet: what there was of
 * another one stands, pale, until it comes.
 */
export function showRun(list: RunList | null, screen: Screen | null, another: boolean, allAlerts: boolean): void {
  byId("answers").classList.toggle("stale", !screen);
  if (screen || !another || !list?.rows.length) {
    showAnswers(screen, list && !list.rows.length ? list.problem || NO_RUN : "Loading…");
    showAlerts(screen, allAlerts);
  }
  document.title = screen ? `${screen.status.word} · ${cut(screen.row.name, 60)} · asynchub` : "asynchub";
}

/** A curve and a mark on it. */
function logo(): Child {
  return h("span", { class: "logo", "aria-hidden": "true" });
}

function steering(list: RunList | null, screen: Screen | null): Child {
  if (!list || !screen) return null;
  const offered = list.role === "steer" ? screen.steerable : [];
  const sets = offered.filter((one) => one.word === "set");
  const shown = offered.filter((one) => one.word !== "set" || sets.length <= 2);
  const button = (what: string, text: string, note: string, danger = false) =>
    h(
      "button",
      { type: "button", class: danger ? "danger" : "", "data-do": "steer", "data-arg": what, title: note },
      text,
    );
  const buttons = shown
    .filter((one) => one.word !== "stop")
    .map((one) => button(`${one.word}/${one.name}`, nameOf(one), cut(one.note)));
  if (sets.length > 2) buttons.push(button("set/", "Set…", `${sets.length} parameters`));
  const stop = shown.find((one) => one.word === "stop");
  if (stop) buttons.push(button("stop/", nameOf(stop), cut(stop.note), true));
  const note = buttons.length ? "Not all…" : "Read only";
  const why =
    screen.steering &&
    h("button", { type: "button", class: "link why", "data-do": "why-not", title: cut(screen.steering, 600) }, note);
  return h("span", { class: "steer" }, ...buttons, why);
}

function showAnswers(screen: Screen | null, said: string): void {
  if (!screen) {
    morph(byId("answers"), [h("div", { class: "answer" }, h("p", { class: "mute" }, said))]);
    return;
  }
  const { status, row } = screen;
  const percent = status.share === null ? null : Math.max(0, Math.min(1, status.share));
  morph(byId("answers"), [
    h(
      "div",
      { class: "answer" },
      h("h2", { class: "name", title: cut(row.name) }, cut(row.name)),
      h(
        "p",
        { class: `word ${status.level}` },
        h("span", { "aria-hidden": "true" }, `${DOTS[status.state] ?? "?"} `),
        h("b", {}, cut(status.word)),
      ),
      percent === null ? null : h("progress", { value: percent, max: 1, "aria-label": "How much of the run is done" }),
      ...status.lines.map(lineOf),
      row.problem ? h("p", { class: "line bad" }, `▲ ${cut(row.problem, 600)}`) : null,
    ),
    answer(screen.stops_head, screen.stops, "Nothing says so far that it will."),
    answer(screen.speed_head, screen.speed, "Nothing is known of that."),
  ]);
}

function answer(title: string, lines: Line[], none: string): HTMLElement {
  const shown = lines.length ? lines.map(lineOf) : [h("p", { class: "line quiet" }, none)];
  return h("div", { class: "answer" }, h("h2", {}, title), ...shown);
}

function lineOf(line: Line, at: number): HTMLElement {
  const icon = ICONS[line.level] && line.level !== "good" ? `${ICONS[line.level]} ` : "";
  return h("p", { class: `line ${line.level}${at === 0 ? " first" : ""}` }, icon + cut(line.text, 600), zoomTo(line));
}

function zoomTo(line: Line): Child {
  if (line.start === null) return null;
  const arg = JSON.stringify({ key: line.key, start: line.start, stop: line.stop ?? line.start });
  return h("button", { type: "button", class: "link", "data-do": "zoom-there", "data-arg": arg }, "Zoom there");
}

function showAlerts(screen: Screen | null, open: boolean): void {
  const alerts = screen?.alerts ?? [];
  const shown = open ? alerts : alerts.slice(0, SHOWN_ALERTS);
  const rest = alerts.length - shown.length;
  morph(byId("alerts"), [
    ...shown.map((line) =>
      h("p", { class: `alert ${line.level}` }, h("span", { class: "text" }, `▲ ${cut(line.text, 600)}`), zoomTo(line)),
    ),
    rest > 0 || (open && alerts.length > SHOWN_ALERTS)
      ? h(
          "button",
          { type: "button", class: "link more", "data-do": "all-alerts" },
          open ? "Show fewer" : `${whole(rest)} more`,
        )
      : null,
  ]);
}

/** Says alerts to who listens instead of looking: only new ones, and not often. */
export class Speaker {
  private known = new Set<string>();
  private last = Number.NEGATIVE_INFINITY;
  private waiting: string[] = [];
  private timer = 0;

  take(screen: Screen): void {
    const texts = new Set(
      screen.alerts.filter((line) => line.level === "warn" || line.level === "bad").map((line) => line.text),
    );
    const shape = (text: string) => text.replace(/[\d,.]+/g, "#"); // a count that grows is no news
    const shapes = new Set([...texts].map(shape));
    this.waiting.push(...[...texts].filter((text) => !this.known.has(shape(text))));
    this.known = shapes;
    if (this.waiting.length && !this.timer) {
      const wait = Math.max(0, this.last + SPOKEN_EACH * 1000 - performance.now());
      this.timer = window.setTimeout(() => this.speak(), wait);
    }
  }

  private speak(): void {
    this.timer = 0;
    this.last = performance.now();
    byId("spoken").textContent = cut(this.waiting.splice(0).join(". "), 500);
  }
}

export function showTrouble(text: string): void {
  const place = byId("trouble");
  place.hidden = text === "";
  if (place.textContent !== text) place.textContent = text;
}
