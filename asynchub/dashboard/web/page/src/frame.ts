/** The places of the page, in their order, before anything is known; each part fills its own. */

import { h } from "./dom";
import { gridFrame, moreFrame } from "./grid";
import { headFrame } from "./head";
import { runsFrame } from "./runs";
import { storyFrame } from "./story";
import { toolbarFrame } from "./toolbar";

export function pageFrame(): HTMLElement[] {
  const beside = h("section", { id: "beside", class: "card", "aria-label": "Runs beside one another", hidden: true });
  const legend = h("ul", { id: "groups", class: "legend", "aria-label": "Groups of runs" });
  return [
    ...headFrame(),
    h(
      "main",
      {},
      runsFrame(),
      h("div", { class: "body" }, toolbarFrame(), legend, beside, ...gridFrame(), ...storyFrame(), moreFrame()),
    ),
  ];
}
