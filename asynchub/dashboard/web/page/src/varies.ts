/** What runs were told to do differently: only what is not the same in all of them. */

import type { RunDifferences } from "./contract";
import { cut, h } from "./dom";
import { nameButton } from "./runtable";

/** Runs up to which each has a column; more have a row each. */
const FEW = 4;

export function variesOf(found: RunDifferences, main: string): HTMLElement | null {
  const { names, rows } = found;
  if (!names.length || rows.length < 2) return null;
  const heads = rows.map((row) => nameButton(row, row.id === main));
  const infos = names.map((name) => h("bdi", {}, cut(name, 80)));
  const [across, down] = rows.length <= FEW ? [heads, infos] : [infos, heads];
  const cell = (line: number, column: number) =>
    rows.length <= FEW ? rows[column]!.cells[line]! : rows[line]!.cells[column]!;
  return h(
    "div",
    { class: "scroll tabled", tabindex: 0, role: "group", "aria-label": "What varies" },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, cut(found.text, 300)),
      h("thead", {}, h("tr", {}, h("td", {}), ...across.map((one) => h("th", { scope: "col" }, one)))),
      h(
        "tbody",
        {},
        ...down.map((one, line) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, one),
            ...across.map((_, column) => {
              const text = cell(line, column);
              return h("td", { class: text === "not said" ? "mute" : null }, h("bdi", {}, cut(text, 120)));
            }),
          ),
        ),
      ),
    ),
  );
}
