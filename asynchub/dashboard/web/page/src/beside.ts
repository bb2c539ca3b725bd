/**
 * What stands in the place of the charts: the runs as a table, or what varies between them.
 *
 * Asks: when something else is wanted, again at once while the server has more to say, and every few seconds after that
 *     while news come. What was there stands until something newer is there.
 */

import type { RunDifferences, RunTable } from "./contract";
import { byId, type Child, cut, h, morph } from "./dom";
import { whole } from "./format";
import type { Page } from "./page";
import { tableHead, tableOf } from "./runtable";
import { variesOf } from "./varies";

const AGAIN_SOON = 150;
const AGAIN = 2000;
const MOST = 100;

let asked = "";
let timer = 0;
let problem = "";
/** Whether it is in the window, of which a phone shows but a part. */
let isSeen = false;
/** The first scalar of the run that was looked at first. */
let first = "";
const modes = new Map<string, string>();
let table: RunTable | null = null;
let varies: RunDifferences | null = null;

/** Shows what the address says, and asks for it. */
export function showBeside(page: Page): void {
  const { now } = page.state;
  const wanted = now.view === "charts" ? "" : JSON.stringify(query(page));
  if (wanted !== asked) {
    [asked, problem] = [wanted, ""];
    clearTimeout(timer);
    timer = 0;
    if (wanted) void ask(page, wanted);
  }
  draw(page);
}

/** Moves the focus to the next run, or to the one before. */
export function step(by: 1 | -1): void {
  const all = [...byId("beside").querySelectorAll<HTMLElement>("tbody [data-do=run]")];
  const at = all.indexOf(document.activeElement as HTMLElement);
  all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + by))]?.focus();
}

/** Returns what is asked for. */
function query(page: Page): Record<string, string> | string[] {
  const { now } = page.state;
  if (now.view !== "table") return chosen(page).length > 1 ? chosen(page) : [`=${now.filter}`];
  return {
    filter: now.filter,
    key: keyOf(page),
    by: now.order,
    mode: modeOf(page),
    most: String(MOST),
  };
}

/** Returns the runs that the reader has pinned, and the one that is looked at; none if nothing is pinned. */
function chosen(page: Page): string[] {
  const { pinned } = page.state.now;
  return pinned.length ? [...new Set([page.main, ...pinned])].filter(Boolean) : [];
}

/** Returns the scalar that the table is about: another run that is looked at does not make it another one. */
function keyOf(page: Page): string {
  first ||= page.shown?.charts[0]?.key ?? "";
  return page.state.now.tabled || first;
}

/** Returns which values are better: as the reader says, or as the runs that were looked at do. */
function modeOf(page: Page): string {
  const { better } = page.state.now;
  for (const chart of page.shown?.charts ?? []) if (chart.mode) modes.set(chart.key, chart.mode);
  return better === "min" || better === "max" ? better : (modes.get(keyOf(page)) ?? "");
}

async function ask(page: Page, mine: string): Promise<void> {
  let more = false;
  try {
    const { source, state } = page;
    if (state.now.view === "table") {
      if (keyOf(page)) {
        const found = await source.table!(query(page) as Record<string, string>);
        if (mine !== asked) return;
        [table, more] = [found, found.more];
      }
    } else {
      const runs = chosen(page);
      const found = await source.differences!(runs.length > 1 ? runs : [], state.now.filter);
      if (mine !== asked) return;
      [varies, more] = [found, found.more];
    }
    problem = "";
  } catch (error) {
    if (mine !== asked) return;
    problem = (error as Error).message;
  }
  draw(page);
  timer = window.setTimeout(() => again(page, mine), more ? AGAIN_SOON : AGAIN);
}

/** Asks again, unless nobody looks. */
function again(page: Page, mine: string): void {
  if (mine !== asked) return;
  if (document.hidden) timer = window.setTimeout(() => again(page, mine), AGAIN);
  else void ask(page, mine);
}

function draw(page: Page): void {
  const { now } = page.state;
  const place = byId("beside");
  if (now.view === "charts") {
    [table, varies, first, isSeen] = [null, null, "", false];
    morph(place, []);
    return;
  }
  const said = problem ? h("p", { class: "bad", role: "alert" }, `▲ ${cut(problem, 600)}`) : null;
  const parts: Child[] = now.view === "table" ? tableParts(page) : variesParts(page);
  morph(place, [...parts.slice(0, 1), said, ...parts.slice(1)]);
  const select = place.querySelector<HTMLSelectElement>("#table-key");
  if (select && select.value !== keyOf(page)) select.value = keyOf(page);
  if (isSeen || !(table ?? varies)) return;
  isSeen = true;
  if (matchMedia("(max-width: 760px)").matches) place.scrollIntoView();
}

function tableParts(page: Page): Child[] {
  const { now } = page.state;
  const key = keyOf(page);
  const keys = new Set([...(key ? [key] : []), ...(page.list?.rows ?? []).flatMap((row) => Object.keys(row.metrics))]);
  const look = { main: page.main, pinned: now.pinned, order: now.order, mode: modeOf(page) };
  const head = tableHead([...keys].slice(0, 300), look);
  if (!key) return [head, h("p", { class: "mute" }, "No run has a scalar so far.")];
  if (!table || table.key !== key) return [head, h("p", { class: "mute" }, "Loading…")];
  const left = table.total - table.rows.length;
  return [
    head,
    tableOf(table, look),
    h(
      "p",
      { class: "mute small", role: "status" },
      [
        table.more ? "Still reading…" : "",
        left > 0 ? `${whole(left)} more: filter them.` : "",
        "A curve goes from the first step of its run to the last, on a scale of its own. Slope: change per 1,000 steps, lately.",
      ]
        .filter(Boolean)
        .join(" "),
    ),
  ];
}

function variesParts(page: Page): Child[] {
  const title = h("h2", {}, "What varies");
  if (!varies) return [title, h("p", { class: "mute" }, "Loading…")];
  const of = chosen(page).length > 1 ? "the pinned ones, and the one that is looked at" : "all in the list; pin some (☆) to see only these";
  return [
    title,
    h("p", { class: "mute" }, `${cut(varies.text, 300)}: ${of}.`),
    variesOf(varies, page.main),
    varies.left + varies.left_runs > 0
      ? h("p", { class: "mute small" }, `${whole(varies.left)} infos and ${whole(varies.left_runs)} runs more`)
      : null,
  ];
}
