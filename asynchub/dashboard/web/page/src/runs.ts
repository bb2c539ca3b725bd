/** The list of runs: their colours, states and newest values. */

import { colourNow, greyNow } from "./colours";
import type { GroupHead, RunList, RunRow, Screen } from "./contract";
import { byId, type Child, cut, h, morph } from "./dom";
import { whole } from "./format";
import { groupOf, lookOfGroups } from "./model";
import { swatch } from "./shapes";
import type { ViewState } from "./state";

const VIEWS = [
  ["charts", "Charts", "The curves (Esc)"],
  ["table", "Table", "A row for each run, with a sparkline (t)"],
  ["varies", "Varies", "What the runs were told to do differently (v)"],
] as const;

export function runsFrame(): HTMLElement {
  return h(
    "aside",
    { class: "runs", "aria-label": "Runs" },
    h(
      "div",
      { class: "find" },
      h("input", {
        id: "filter",
        type: "search",
        placeholder: "Filter runs: lr<0.1 and aug=mix",
        "aria-label": "Filter runs",
        autocomplete: "off",
        spellcheck: "false",
      }),
      h("select", { id: "sort", "aria-label": "Order of the runs" }),
      h("span", { id: "views", class: "seg", role: "group", "aria-label": "What is shown" }),
    ),
    h("p", { id: "runs-problem", class: "problem bad", role: "status", hidden: true }),
    h("div", { id: "runs-list", class: "list", role: "list" }),
    h("p", { id: "runs-count", class: "mute small" }),
  );
}

/** Returns the rows in the order that the reader wants. */
export function sorted(rows: RunRow[], by: string): RunRow[] {
  if (!by) return rows;
  if (by === "name") return [...rows].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const down = by.startsWith("-");
  const key = by.replace(/^[-+]/, "");
  const value = (row: RunRow) => Number.parseFloat(row.metrics[key] ?? "");
  const place = (row: RunRow) =>
    Number.isNaN(value(row)) ? Number.POSITIVE_INFINITY : down ? -value(row) : value(row);
  return rows
    .map((row, at) => ({ row, at }))
    .sort((a, b) => place(a.row) - place(b.row) || a.at - b.at)
    .map(({ row }) => row);
}

export function showRuns(
  list: RunList | null,
  screen: Screen | null,
  state: ViewState,
  main: string,
  drawn: RunRow[],
  coloured: Set<string>,
  groups: Map<string, GroupHead>,
): void {
  const rows = sorted(list?.rows ?? [], state.sort);
  const extra = screen && screen.row.id === main && !rows.some((row) => row.id === main) ? [screen.row] : [];
  showSort(list?.rows ?? [], state.sort);
  morph(
    byId("views"),
    VIEWS.map(([view, text, title]) =>
      h(
        "button",
        { type: "button", "data-do": "view", "data-arg": view, "aria-pressed": String(state.view === view), title },
        text,
      ),
    ),
  );
  morph(
    byId("runs-list"),
    [...extra, ...rows].map((row, at) => rowOf(row, at, row.id === main, coloured, state, groups)),
  );
  morph(
    byId("groups"),
    (state.group ? lookOfGroups(groups).reverse() : []).map(({ colour, dash, name }) =>
      h("li", {}, swatch(colour, dash), h("bdi", {}, cut(name, 100))),
    ),
  );
  const problem = byId("runs-problem");
  problem.hidden = !list?.problem;
  problem.textContent = cut(list?.problem ?? "", 600);
  const parts = [];
  if (!state.group && drawn.length > coloured.size)
    parts.push(`${coloured.size} coloured of ${whole(drawn.length)}; the others are grey.`);
  if (rows.length > drawn.length) parts.push(`${whole(drawn.length)} of ${whole(rows.length)} drawn.`);
  if (list && list.more > 0) parts.push(`${whole(list.more)} more: filter them.`);
  if (list?.note) parts.push(`${list.note}.`);
  byId("runs-count").textContent = parts.join(" ");
}

function rowOf(row: RunRow, at: number, isMain: boolean, coloured: Set<string>, state: ViewState, groups: Map<string, GroupHead>): Child {
  const isPinned = state.pinned.includes(row.id);
  const own = state.group && state.view === "charts" ? groups.get(groupOf(row, state.group))?.colour : coloured.has(row.id) ? row.colour : null;
  const [metric] = Object.entries(row.metrics);
  const base = row.name.split("/").findLast(Boolean) ?? row.name;
  const words = row.problem ? `${row.word} · ${row.problem}` : row.word;
  return h(
    "div",
    { class: `run${isMain ? " main" : ""}`, role: "listitem", "data-id": row.id },
    h(
      "button",
      {
        type: "button",
        class: "pick",
        "data-do": "run",
        "data-arg": row.id,
        "aria-current": isMain ? "true" : null,
        title: [
          row.name,
          row.folder,
          ...Object.entries(row.config)
            .slice(0, 40)
            .map(([name, value]) => `${name} = ${value}`),
        ]
          .map((line) => cut(line, 120))
          .join("\n"),
      },
      swatch(own ? colourNow(own) : greyNow(), (own ?? row.colour).dash),
      h("span", { class: "name" }, h("bdi", {}, cut(base, 120)), h("small", { class: row.level }, cut(words, 160))),
      metric ? h("span", { class: "metric", title: cut(metric[0], 120) }, cut(metric[1], 16)) : null,
    ),
    pin(
      row,
      isPinned,
      `${isPinned ? "Unpin" : "Pin: it keeps a colour and stays on the charts"}${at < 9 ? ` (key ${at + 1} looks at it)` : ""}`,
    ),
  );
}

function showSort(rows: RunRow[], by: string): void {
  const keys = new Set(rows.flatMap((row) => Object.keys(row.metrics)));
  const options: [string, string][] = [
    ["", "newest first"],
    ["name", "by name"],
  ];
  for (const key of [...keys].slice(0, 20))
    options.push([`-${key}`, `${cut(key, 24)} ↓`], [`+${key}`, `${cut(key, 24)} ↑`]);
  if (by && !options.some(([value]) => value === by)) options.push([by, cut(by, 26)]);
  const select = byId<HTMLSelectElement>("sort");
  morph(
    select,
    options.map(([value, text]) => h("option", { value }, text)),
  );
  if (select.value !== by) select.value = by;
}

/** Returns the button by which a run is pinned, or is no more. */
export function pin(row: Pick<RunRow, "id" | "name">, isPinned: boolean, title = ""): HTMLElement {
  return h(
    "button",
    {
      type: "button",
      class: "pin",
      "data-do": "pin",
      "data-arg": row.id,
      "aria-pressed": String(isPinned),
      "aria-label": `Pin ${cut(row.name, 60)}`,
      ...(title ? { title } : {}),
    },
    isPinned ? "★" : "☆",
  );
}
