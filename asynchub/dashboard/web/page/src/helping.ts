/** Help: the keys, what the pointer does, and what the signs mean. */

import { type Child, h } from "./dom";
import type { Page } from "./page";

const KEYS: [string, string][] = [
  ["/", "filter the runs"],
  ["1 … 9", "look at a run of the list"],
  ["p", "pin the run, or let it go"],
  ["j k", "next chart, chart before; of a table, next run"],
  ["Enter", "one chart large, and back"],
  ["← →", "read values along the chart that has the focus"],
  ["h l", "move to earlier, to later steps"],
  ["+ -", "zoom in, zoom out"],
  ["g r", "the steps of all runs, of this run"],
  ["z", "undo the last move or zoom"],
  ["f", "follow the newest step, or stay"],
  ["x", "x axis: step, time, relative time, epoch"],
  ["L o", "y axis linear or logarithmic: of all charts, of the one that has the focus"],
  ["y", "fit the charts to all values, or to most of them"],
  ["s", "smoothing: off, mean, EMA"],
  ["a", "zoom to what is wrong, one after the other"],
  ["m", "zoom to the decisions, the newest first"],
  ["c", "filter the scalars: more charts"],
  ["w", "what if: try a stopping rule"],
  ["t v", "the runs as a table, what varies between them; and back to the charts"],
  ["b", "group the runs by what varies, one after the other"],
  ["e", "export"],
  ["d", "dark or light"],
  ["Esc", "undo the last change of what is shown"],
  ["S R C P V", "stop, set the learning rate, checkpoint, pause, set another parameter: it asks back first"],
];
const MOUSE: [string, string][] = [
  ["Drag", "zoom to a part; two fingers do so, too"],
  ["Shift + drag", "move along the axis; so does a wheel that turns sideways"],
  ["Ctrl + wheel", "zoom"],
  ["Double click", "the steps of all runs"],
  ["Click", "look at the nearest run; on a mark: what was decided, and why"],
];
const SIGNS: [string, string][] = [
  ["▼", "a rule acted"],
  ["▽", "suggested or refused"],
  ["☻", "a person did it"],
  ["↻", "the run was resumed"],
  ["✕", "something failed"],
  ["◆", "values that are not finite, with their count"],
  ["▲ ▼ and a value", "what reaches beyond the edge of the chart"],
];

/** Lists the keys. */
export function help({ dialog }: Page): void {
  const list = (rows: [string, string][], name: (key: string) => Child[]) =>
    h("dl", { class: "keys" }, ...rows.flatMap(([key, text]) => [h("dt", {}, ...name(key)), h("dd", {}, text)]));
  const pressed = (key: string) =>
    key.split(" ").map((one) => (one === "…" ? h("span", {}, one) : h("kbd", {}, one)));
  const plain = (key: string) => [key];
  dialog.show(
    "Keys",
    list(KEYS, pressed),
    h("h3", {}, "Mouse and fingers"),
    list(MOUSE, plain),
    h("h3", {}, "Signs"),
    list(SIGNS, plain),
  );
}
