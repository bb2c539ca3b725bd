/** Begins: from a server, or from what is in the page. */

import "./page.css";

import { Actions } from "./actions";
import { h } from "./dom";
import { showTrouble } from "./head";
import { Link } from "./link";
import { Page } from "./page";
import { Served } from "./served";
import { State } from "./state";
import { onTheme, startTheme } from "./theme";

startTheme();
const kept = globalThis.asynchubMore; // only an exported page has the rest from the beginning
const data = kept?.exportedData() ?? null;
// the link takes the token out of the address before anything else reads or writes that
let page: Page;
const link = data
  ? null
  : new Link({
      rows: (list) => page.takeRows(list),
      screen: (screen) => page.takeScreen(screen),
      curves: (message) => page.takeCurves(message),
      trouble: showTrouble,
      locked,
    });
page = new Page(new State());
new Actions(page);
onTheme(() => page.recolour());
if (link) {
  page.start(new Served(link));
} else if (kept && data) {
  const source = new kept.Exported(data, page.listener);
  page.made = source.made;
  page.offer = source.offer;
  page.start(source);
}

function locked(text: string): void {
  page.dialog.show(
    "This page needs its token",
    text ? h("p", { class: "warn" }, text) : null,
    h(
      "p",
      {},
      "Open the whole address that ",
      h("code", {}, "asynchub serve"),
      " printed; it ends in ",
      h("code", {}, "#t=…"),
      ". Or paste that here:",
    ),
    h(
      "label",
      { class: "field-row" },
      "Address or token",
      h("input", { id: "token", type: "password", autocomplete: "off" }),
    ),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "solid", "data-do": "unlock" }, "Open")),
  );
}
