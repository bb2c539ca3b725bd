/** The runs as a table: a row for each, with a sparkline and the figures of one scalar. */

import { colourNow } from "./colours";
import type { RunTable, TableRow } from "./contract";
import { type Child, cut, h, svg } from "./dom";
import { whole } from "./format";
import { pin } from "./runs";
import { swatch } from "./shapes";

export interface TableLook {
  main: string;
  pinned: string[];
  order: string;
  mode: string;
}

const [WIDE, HIGH] = [180, 34];
const HEADS: [order: string, name: string, title: string][] = [
  ["name", "Run", "By name"],
  ["newest", "State", "By the newest event, the last one first"],
  ["", "Curve", ""],
  ["last", "Last", "By the newest value"],
  ["best", "Best", "By the best value"],
  ["slope", "Slope", "By the change per step, in the newest quarter of the steps"],
  ["", "Step", ""],
];
const FIGURES = ["Last", "Best", "Slope", "Step"];
const BETTER = [
  ["min", "smaller"],
  ["max", "larger"],
] as const;

/** Returns what is chosen above the table. */
export function tableHead(keys: string[], look: TableLook): HTMLElement {
  return h(
    "div",
    { class: "find" },
    h(
      "label",
      {},
      "Scalar ",
      h("select", { id: "table-key" }, ...keys.map((key) => h("option", { value: key }, cut(key, 80)))),
    ),
    h(
      "span",
      { class: "better", role: "group", "aria-label": "Which values are better" },
      ...BETTER.map(([mode, words]) =>
        h(
          "button",
          { type: "button", "data-do": "better", "data-arg": mode, "aria-pressed": String(look.mode === mode) },
          words,
        ),
      ),
      h("span", { class: "mute" }, look.mode ? "is better" : "is better? Nobody has said so far"),
    ),
  );
}

export function tableOf(table: RunTable, look: TableLook): HTMLElement {
  const heads = HEADS.map(([order, name, title]) => {
    const isNow = order !== "" && order === look.order;
    const up = order === "name" || (order !== "newest" && look.mode !== "max");
    return h(
      "th",
      { scope: "col", class: FIGURES.includes(name) ? "figure" : null, "aria-sort": isNow ? (up ? "ascending" : "descending") : null },
      order
        ? h("button", { type: "button", class: "link", "data-do": "order-by", "data-arg": order, title }, name)
        : name,
      isNow ? h("span", { "aria-hidden": "true" }, up ? " ▲" : " ▼") : null,
    );
  });
  return h(
    "div",
    { class: "scroll tabled folds", tabindex: 0, role: "group", "aria-label": `Runs by ${cut(table.key, 80)}` },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, `${whole(table.total)} runs, with figures of ${cut(table.key, 200)}`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "unseen" }, "Pinned")), ...heads)),
      h("tbody", {}, ...table.rows.map((row) => rowOf(row, table, look))),
    ),
  );
}

function rowOf(row: TableRow, table: RunTable, look: TableLook): HTMLElement {
  const isMain = row.id === look.main;
  const figure = (name: string, text: string) => h("td", { class: "figure", "data-name": name }, cut(text, 30));
  const bad = row.not_finite ? h("span", { class: "bad" }, ` ◆ ${whole(row.not_finite)} not finite`) : null;
  return h(
    "tr",
    { "data-id": row.id, class: isMain ? "main" : null },
    h("td", { class: "pinned" }, pin(row, look.pinned.includes(row.id))),
    h("th", { scope: "row" }, nameButton(row, isMain)),
    h("td", { class: `word ${row.level}` }, cut(row.word, 60)),
    row.problem
      ? h("td", { class: "line bad", colspan: 4 }, `▲ ${cut(row.problem, 200)}`)
      : h("td", { class: "line" }, sparkline(row, table.height), bad),
    ...(row.problem ? [] : [figure("last", row.last), figure("best", row.best), figure("slope", row.slope)]),
    figure("step", row.step === null ? "–" : whole(row.step)),
  );
}

/** Returns a button that looks at a run. */
export function nameButton(row: Pick<TableRow, "id" | "name" | "folder" | "colour">, isMain: boolean): HTMLElement {
  return h(
    "button",
    {
      type: "button",
      class: "named",
      "data-do": "run",
      "data-arg": row.id,
      "aria-current": isMain ? "true" : null,
      title: cut(row.folder, 200),
    },
    swatch(colourNow(row.colour), row.colour.dash),
    h("bdi", {}, cut(row.name, 120)),
  );
}

/** Returns a small curve: the range of each part, the line of their means, and marks where it reaches beyond an edge. */
function sparkline(row: TableRow, height: number): Child {
  if (!row.spark.length) return h("span", { class: "mute" }, row.count ? "" : "no value");
  const colour = colourNow(row.colour);
  const x = (at: number) => (at * WIDE).toFixed(1);
  const y = (place: number) => (HIGH - (Math.max(0, Math.min(height, place)) / height) * HIGH).toFixed(1);
  let [reach, line, off] = ["", "", ""];
  let isOn = false;
  row.spark.forEach(([low, high, mean], part) => {
    const left = x(row.at[part]!);
    if (typeof low === "number" && typeof high === "number") {
      reach += `M${left} ${y(low)}V${(Number(y(high)) - 0.6).toFixed(1)}`;
      if (high > height) off += `M${left} 0v4`;
      if (low < 0) off += `M${left} ${HIGH}v-4`;
    }
    if (typeof mean === "number") line += `${isOn ? "L" : "M"}${left} ${y(mean)}${isOn ? "" : "h.01"}`;
    isOn = typeof mean === "number";
  });
  const wide = Math.max(1, WIDE / row.spark.length);
  return svg(
    "svg",
    {
      class: "spark",
      preserveAspectRatio: "none",
      viewBox: `-2 -2 ${WIDE + 4} ${HIGH + 4}`,
      role: "img",
      "aria-label": `From ${row.count === 1 ? "one value" : `${whole(row.count)} values`}`,
    },
    svg("path", { d: reach, class: "reach", stroke: colour, "stroke-width": wide }),
    svg("path", { d: line, class: "mean", stroke: colour, "vector-effect": "non-scaling-stroke" }),
    off ? svg("path", { d: off, class: "off" }) : null,
  );
}
