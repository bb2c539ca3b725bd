/** What stands before the page until it is closed: decisions, and what `more.ts` has. */

import type { Mark, Screen } from "./contract";
import { type Child, cut, h, morph } from "./dom";
import { whole } from "./format";
import { markInWords, markTable } from "./story";

export class Dialog {
  private readonly root = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" }) as HTMLDialogElement;
  /** Is told of each screen that comes while it is open. */
  follow: ((screen: Screen) => void) | null = null;

  constructor() {
    document.body.append(this.root);
    this.root.addEventListener("close", () => {
      this.follow = null;
      const focused = document.activeElement;
      if (focused instanceof HTMLElement && this.root.contains(focused)) focused.blur();
    });
    this.root.addEventListener("click", (event) => event.target === this.root && this.close());
  }

  get open(): boolean {
    return this.root.open;
  }

  close(): void {
    this.root.close();
  }

  field<E extends HTMLElement>(selector: string): E | null {
    return this.root.querySelector<E>(selector);
  }

  show(title: string, ...children: Child[]): void {
    this.root.classList.remove("wide");
    morph(this.root, []);
    this.root.append(
      h(
        "div",
        { class: "inside" },
        h(
          "div",
          { class: "bar" },
          h("h2", { id: "dialog-title" }, title),
          h("button", { type: "button", class: "quiet-button", "data-do": "close", "aria-label": "Close" }, "✕"),
        ),
        ...children.filter((child): child is Node | string => Boolean(child)),
      ),
    );
    if (!this.root.open) this.root.showModal();
  }

  /** Puts something into a place of it. */
  fill(selector: string, ...children: Child[]): void {
    const place = this.field(selector);
    if (place) morph(place, children);
  }

  /** Says all of a decision, or lists some. */
  marks(marks: Mark[]): void {
    if (marks.length === 1) {
      this.mark(marks[0]!);
      return;
    }
    this.show(`${whole(marks.length)} decisions`, markTable(marks));
    this.widen();
  }

  /** Makes it wide, for a table. */
  widen(): void {
    this.root.classList.add("wide");
  }

  mark(mark: Mark): void {
    this.show(cut(mark.what, 200), ...markInWords(mark));
  }

  words(title: string, text: string): void {
    this.show(title, h("p", {}, cut(text, 2000)));
  }
}
