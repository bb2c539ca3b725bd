/** What if: a stopping rule that is run over what was recorded, and what it would have done. */

import type { Dialog } from "./dialogs";
import { cut, h } from "./dom";
import type { WhatIf } from "./model";
import type { Page } from "./page";

/** Milliseconds between two questions how far replaying is. */
const ASK_AGAIN = 400;
const TRY_SECONDS = 120;

/** Asks for a rule to try. */
export function whatIf({ dialog, state }: Page): void {
  dialog.show(
    "What if",
    h("p", { class: "mute" }, "A stopping rule is run over what was recorded: the same code that runs in training."),
    h(
      "label",
      { class: "field-row" },
      "Rule",
      h("input", {
        id: "rule",
        type: "text",
        value: state.now.rule,
        spellcheck: "false",
        autocomplete: "off",
        placeholder: "EarlyStopping:val/accuracy:mode=max:patience=3",
      }),
    ),
    h("p", { id: "rule-problem", class: "bad", role: "alert" }),
    h("div", { id: "rule-found", class: "scroll", role: "status" }),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", "data-do": "forget-rule" }, "Take it off the charts"),
      h("button", { type: "button", class: "solid", "data-do": "try-rule" }, "Try it"),
    ),
  );
  dialog.widen();
  dialog.field("#rule")?.focus();
}

/** Tries the rule that was typed on the runs that are drawn. */
export async function tryRule(page: Page): Promise<void> {
  const { dialog, state } = page;
  const rule = dialog.field<HTMLInputElement>("#rule")?.value.trim() ?? "";
  if (!rule) return;
  dialog.fill("#rule-problem");
  dialog.fill("#rule-found", "Running it over what was recorded…");
  try {
    const runs = page.rows[0].map((row) => row.id);
    state.set({ rule });
    const deadline = performance.now() + TRY_SECONDS * 1000;
    for (;;) {
      page.tried = await page.source.whatIf(runs, rule);
      showTried(dialog, page.tried, new Map(page.rows[0].map((row) => [row.id, row.name])));
      page.change("curves");
      if (!page.tried.waiting || !dialog.open || performance.now() > deadline) return;
      await new Promise((done) => setTimeout(done, ASK_AGAIN));
    }
  } catch (error) {
    dialog.fill("#rule-found");
    dialog.fill("#rule-problem", (error as Error).message);
  }
}

function showTried(dialog: Dialog, found: WhatIf, names: Map<string, string>): void {
  dialog.fill("#rule-problem", found.error ? cut(found.error, 600) : "");
  const rules = new Set(found.rows.map((row) => row.rule)).size > 1;
  const heads = ["run", ...(rules ? ["rule"] : []), ...found.heads];
  const row = (one: WhatIf["rows"][number]) =>
    h(
      "tr",
      {},
      h("td", {}, h("bdi", {}, cut(names.get(one.run) ?? one.run, 60))),
      rules ? h("td", {}, cut(one.rule, 120)) : null,
      ...(one.error
        ? [h("td", { class: "bad", colspan: found.heads.length }, cut(one.error, 300))]
        : one.cells.map((cell) => h("td", {}, cut(cell, 60)))),
    );
  dialog.fill(
    "#rule-found",
    h("p", { class: "warn" }, cut(found.label, 200)),
    found.rows.length
      ? h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
          h("tbody", {}, ...found.rows.map(row)),
        )
      : null,
    found.waiting ? h("p", { class: "mute" }, `${found.waiting} to go…`) : null,
  );
}
